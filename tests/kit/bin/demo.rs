//! Shows plaintext become mutual TLS.
fn main() {}
