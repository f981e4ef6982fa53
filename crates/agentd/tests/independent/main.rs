//! Model servers that others wrote, from the package registries: the client meets more than what this project scripts.
//!
//! `cargo xtask independent` installs the servers and runs these tests; the other tests need no package registry. Where a
//! server is missing they fail. `judge.py` judges requests by the types of the providers' own SDKs.

mod aimock;
mod counts;
#[path = "../goals/documented.rs"]
mod documented;
mod llama;
mod sdks;
mod servers;
mod support;
