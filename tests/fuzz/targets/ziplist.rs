//! Ziplists in every value that is made of them, against the oracle.
#![no_main]

use dts_fuzz::{blob, reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let data = blob::framed(data);
    let elements = reference::ziplist(&data);
    blob::agrees(&blob::snapshot(10, &[], &data, &[]), blob::items("ListItem", &elements));
    blob::agrees(&blob::snapshot(14, &[1], &data, &[]), blob::items("ListItem", &elements));
    blob::agrees(&blob::snapshot(13, &[], &data, &[]), blob::pairs(&elements));
    // Scores have rules of their own: whole and in parts have to agree.
    blob::found(&blob::snapshot(12, &[], &data, &[]));
});
