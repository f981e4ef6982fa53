//! The daemon's own life: how it ends, what ends with it, and what it is as process 1.

mod disk;
mod pid1;
mod stop;
mod support;
mod views;
