//! The attacks that need the lab: real services, systemd or containers.

mod lab_conditions;
mod lab_maps;
mod lab_rootless;
