//! What needs a machine that may be thrown away: real services, systemd, podman. `make test-lab` boots one for it.
//!
//! One program; the lab runs its modules one after the other, each in a process of its own (`tests/lab/in-lab`).

mod common;
mod lab_access;
#[path = "attacks/lab.rs"]
mod lab_attacks;
mod lab_cert;
mod lab_containers;
mod lab_daemon;
mod lab_export;
mod lab_flood;
mod lab_hosts;
mod lab_locked;
mod lab_password;
mod lab_pidrace;
mod lab_publish;
mod lab_residue;
mod lab_scopes;
mod lab_services;
mod lab_systemd;
mod lab_takeover;
mod lab_tools;
mod lab_torture;
mod lab_unlock;
mod lab_views;
