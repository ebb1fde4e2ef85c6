//! Zipmaps against the oracle.
#![no_main]

use dts_fuzz::{blob, reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    blob::agrees(&blob::snapshot(9, &[], data, &[]), blob::pairs(&reference::zipmap(data)));
});
