//! Who may call a method: uid 0, the members of `operator_group`, whoever can open the store.
//!
//! Owns the rule of each kind of right. Which method has which stands in `for_each_method!`; the socket asks before it reads a parameter.

use super::Fault;

/// Who may call a method. In the order of how much it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    /// Operators, and uid 0.
    Operator,
    /// Operators too, as long as nobody may read more afterwards than before; beyond that as [`Right::Root`]. The method
    /// itself tells the two apart.
    Part,
    /// uid 0; operators with proof: it widens who may read what is there.
    Root,
    /// Operators and uid 0, with what opens the store among the parameters.
    Carried,
    /// Whoever proves that he can open the store, uid 0 included.
    Proof,
    /// What the kernel started to make a key.
    Kernel,
}

impl Right {
    /// Each of them.
    pub const ALL: [Right; 6] =
        [Right::Operator, Right::Part, Right::Root, Right::Carried, Right::Proof, Right::Kernel];

    /// As the table in the documentation says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Right::Operator => "operator",
            Right::Part => "operator, in part",
            Right::Root => "root",
            Right::Carried => "operator, carries proof",
            Right::Proof => "proof",
            Right::Kernel => "kernel",
        }
    }

    /// Whether somebody who was let in as root or as an operator has this right. Whether the kernel started him is not
    /// known here: of [`Right::Kernel`] this is the half that can be said.
    ///
    /// # Errors
    /// [`Fault::Unproven`] where proof would do, [`Fault::Refused`] where it would not.
    pub fn permits(self, root: bool, proven: bool) -> Result<(), Fault> {
        match self {
            Right::Operator | Right::Part | Right::Carried => Ok(()),
            Right::Root if root || proven => Ok(()),
            Right::Root => Err(unproven()),
            Right::Proof if proven => Ok(()),
            Right::Proof => Err(Fault::Unproven("this needs proof, of root too: what opens the store".into())),
            Right::Kernel if root => Ok(()),
            Right::Kernel => Err(Fault::Refused("this is for what the kernel starts alone".into())),
        }
    }
}

/// What an operator hears who would widen who may read what is there.
pub fn unproven() -> Fault {
    Fault::Unproven(
        "this widens who may read what is there: it needs root, or proof, which is what opens the store".into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_right_is_had_by_those_the_documents_name() {
        // (root, proven): an operator, one with proof, root, root with proof.
        let who = [(false, false), (false, true), (true, false), (true, true)];
        for (right, may) in [
            (Right::Operator, [true, true, true, true]),
            (Right::Part, [true, true, true, true]),
            (Right::Root, [false, true, true, true]),
            (Right::Carried, [true, true, true, true]),
            (Right::Proof, [false, true, false, true]),
            (Right::Kernel, [false, false, true, true]),
        ] {
            assert_eq!(who.map(|(root, proven)| right.permits(root, proven).is_ok()), may, "{right:?}");
        }
        assert!(matches!(Right::Root.permits(false, false), Err(Fault::Unproven(_))));
        assert!(matches!(Right::Proof.permits(true, false), Err(Fault::Unproven(_))));
        assert!(matches!(Right::Kernel.permits(false, true), Err(Fault::Refused(_))));
    }
}
