//! A command that is too large to wait for passes as it comes.

use dts_common::error::Result;
use dts_common::redis::resp::CommandParser;

use super::{Group, StreamEncoder};
use crate::route::large::{Head, LARGE, Large};

impl StreamEncoder {
    /// Begins to pass on the command that is cut off, if it is large; the length of its header, or 0.
    pub(super) fn begin_large(&mut self, cut_off: &[u8]) -> Result<usize> {
        // Where a value waits for its name is in another slot.
        if cut_off.len() < LARGE || self.marks {
            return Ok(0);
        }
        let Some((arguments, whole)) = self.parser.partial() else { return Ok(0) };
        let whole: Vec<&[u8]> = whole.iter().filter_map(|(start, end)| cut_off.get(*start..*end)).collect();
        let Some(header) = memchr::memchr(b'\n', cut_off) else { return Ok(0) };
        let head = Head { arguments, whole: &whole };
        let Some(db) = self.rewriter.moves_in_parts(&head, self.db) else { return Ok(0) };
        let Some((large, begins)) = Large::begin(arguments, &whole, &self.rewriter) else { return Ok(0) };
        let group = self.group.get_or_insert_with(|| Group { of_one: true, ..Group::default() });
        group.begin(self.db);
        self.rewriter.select(db, &mut group.out)?;
        self.large_db = db;
        group.out.bytes.extend_from_slice(&begins);
        self.large = Some(large);
        self.parser = CommandParser::default();
        self.progress.stream_commands += 1;
        Ok(header + 1)
    }

    /// Passes on what there is of the large command; `start` is the offset of these bytes.
    pub(super) fn pass(&mut self, bytes: &[u8], start: u64) -> Result<usize> {
        let (Some(large), Some(group)) = (&mut self.large, &mut self.group) else { return Ok(0) };
        let (taken, over) = large.take(bytes, &mut group.out)?;
        if over && let Some(large) = self.large.take() {
            large.finish(&mut self.rewriter, self.large_db, &mut group.out);
            if group.of_one {
                self.end_group(start + taken as u64);
                return Ok(taken);
            }
        }
        self.hand_on_group();
        Ok(taken)
    }
}
