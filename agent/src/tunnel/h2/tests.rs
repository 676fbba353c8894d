//! The machine as a whole; the parts have their own tests.

mod abuse;
mod chunks;
mod corpus;
mod endpoint;
mod exchange;
mod frames;
mod frozen;
mod leaving;
mod messages;
mod oracle;
mod support;
mod windows;
