//! The wire between processes: generated code and nothing else.

/// Package `dts.v1`.
#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("dts.v1");
}

/// The descriptors of every file of `dts.v1`, with comments, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
