//! Redis's wire and file formats: bytes in, values out. No sockets, no files, no tokio.

pub mod command;
pub mod command_table;
pub mod expiry;
pub mod lzf;
pub mod rdb;
pub mod resp;
pub mod slot;
pub mod slot_tag;
pub mod version;
