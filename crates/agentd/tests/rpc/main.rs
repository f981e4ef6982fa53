//! The control socket of SPEC §3, driven from outside against the real daemon, gateway and workers.

mod approvals;
mod bad_input;
mod calls_cut;
mod codes;
mod denied_writes;
mod explain;
mod hostile_clients;
mod limits;
mod manifests;
mod messages;
mod methods;
mod paths;
mod persistent;
mod principals;
mod program_groups;
mod programs;
mod purses;
mod restart;
mod revocation;
mod schedules;
mod settled;
mod streams;
mod supervision;
mod support;
mod worker_failures;
mod worker_memory;
