//! Every byte shared between the kernel programs and the agent.
#![no_std]
/// Mark of flows looped through `lo` to the agent, inside a pod's network namespace only.
pub const MARK_LOOP: u32 = 0x111;
/// Mark of the agent's own inbound sockets, inside a pod's network namespace only.
pub const MARK_AGENT: u32 = 0x539;
/// The port of HBONE.
pub const HBONE_PORT: u16 = 15008;
