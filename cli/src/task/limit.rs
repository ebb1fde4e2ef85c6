//! `dts task limit`: bounds that are named change, the others stay.

use clap::Args;
use dts_proto::v1::{Limits, TaskSpec, UpdateTaskRequest};

use crate::show::parse_bytes;

#[derive(Debug, Args)]
pub(super) struct Limit {
    pub(super) id: Option<String>,
    /// Bytes a second read from the source; 0: unbounded.
    #[arg(long, value_parser = parse_bytes)]
    read_rate: Option<u64>,
    /// Bytes a second written to the target; 0: unbounded.
    #[arg(long, value_parser = parse_bytes)]
    write_rate: Option<u64>,
    /// Memory of the spool.
    #[arg(long, value_parser = parse_bytes)]
    spool_memory: Option<u64>,
    /// Disk of the spool.
    #[arg(long, value_parser = parse_bytes)]
    spool_disk: Option<u64>,
}

impl Limit {
    pub(super) fn request(&self, id: String) -> UpdateTaskRequest {
        let given = [
            ("limits.read_bytes_per_second", self.read_rate),
            ("limits.write_bytes_per_second", self.write_rate),
            ("limits.spool_memory_bytes", self.spool_memory),
            ("limits.spool_disk_bytes", self.spool_disk),
        ];
        let limits = Limits {
            read_bytes_per_second: self.read_rate.unwrap_or_default(),
            write_bytes_per_second: self.write_rate.unwrap_or_default(),
            spool_memory_bytes: self.spool_memory.unwrap_or_default(),
            spool_disk_bytes: self.spool_disk.unwrap_or_default(),
            ..Limits::default()
        };
        let paths = given.iter().filter(|(_, value)| value.is_some()).map(|(path, _)| (*path).to_owned()).collect();
        UpdateTaskRequest {
            id,
            revision: 0,
            spec: Some(TaskSpec { limits: Some(limits), ..TaskSpec::default() }),
            update_mask: Some(prost_types::FieldMask { paths }),
        }
    }
}
