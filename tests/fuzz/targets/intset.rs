//! Intsets against the oracle.
#![no_main]

use dts_fuzz::{blob, reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let members = reference::intset(data);
    blob::agrees(&blob::snapshot(11, &[], data, &[]), blob::items("SetMember", &members));
});
