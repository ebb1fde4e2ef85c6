//! A whole record.

use super::event::{Meta, Part};
use crate::error::{Code, Error};

/// A record that fits the inline limit. Its value is still as it stands in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry<'a> {
    /// What stands before the value.
    pub meta: Meta<'a>,
    raw: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The value's bytes as they stand in the snapshot.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The string's bytes, for [`super::Kind::String`]. Borrows from the snapshot where it can, else from `scratch`.
    pub fn string<'s>(&self, scratch: &'s mut Vec<u8>) -> Result<&'s [u8], Error>
    where
        'a: 's,
    {
        scratch.clear();
        Err(Error::new(Code::Internal, "not decoded yet"))
    }

    /// Decodes the value to its parts, in order; not for modules and arrays.
    pub fn parts(&self, _each: &mut dyn FnMut(Part<'_>) -> Result<(), Error>) -> Result<(), Error> {
        Err(Error::new(Code::Internal, "not decoded yet"))
    }

    /// Whether a field of this hash has an expiry of its own.
    pub fn has_field_expiry(&self) -> bool {
        false
    }

    /// Appends the payload that RESTORE takes, said to be of RDB version `footer_version`.
    pub fn append_dump(&self, footer_version: u16, out: &mut Vec<u8>) {
        let from = out.len();
        out.push(self.meta.type_code);
        out.extend_from_slice(self.raw);
        out.extend_from_slice(&footer_version.to_le_bytes());
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Redis, &out[from..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }

    /// Length of that payload.
    pub fn dump_len(&self) -> usize {
        1 + self.raw.len() + 10
    }
}
