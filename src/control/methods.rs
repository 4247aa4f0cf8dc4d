//! Every method of the interface, served by the vault: a row of the table that the vault does not serve, or that is to be answered in a way of its own
//! and has none, is not compiled.

use crate::vault::Vault;
use crate::wire::*;

macro_rules! all {
    ($core:ty; $($params:ident => $name:literal, $right:ident, $answer:ident $reply:ty;)*) => {
        crate::serves!($core: $($answer $params),*);
    };
}

crate::wire::for_each_method!(all Vault;);
