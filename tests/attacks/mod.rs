//! Attacks on the running product, one file a theme, each attack's program as source in `programs`.
//!
//! The table of all of them is in `docs/threat-model.md`; `page` holds it against the tests that exist.

mod authority;
mod bounds;
mod clocks;
mod conditions;
mod descriptors;
mod directories;
mod fleet;
mod handover;
mod kills;
mod log;
mod looking;
mod maps;
mod mounts;
mod namespaces;
mod page;
mod power;
mod power_checkpoints;
mod programs;
mod programs_that_lie;
mod refusals;
mod store;
mod upcall;
mod views;
