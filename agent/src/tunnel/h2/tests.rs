//! The machine as a whole; the parts have their own tests.

mod exchange;
mod support;
