//! The engine over whole, broken and real files.

mod calls;
mod gguf;
mod given;
mod hostile;
mod real;
mod serve;
