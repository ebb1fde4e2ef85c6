//! The wire between processes: generated code, and the version of what agents and coordinators say to each other.

/// Package `dts.v1`.
#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("dts.v1");
}

/// Of the conversation between agents and coordinators: the same on both sides, or the agent is refused. 2: the sources of a large task are told once, a
/// task may ask for a user as its fence, a switch-over has the steps TURN and OPEN.
pub const PROTOCOL_VERSION: u32 = 2;

/// The descriptors of every file of `dts.v1`, with comments, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
