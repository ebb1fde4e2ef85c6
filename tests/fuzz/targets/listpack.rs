//! Listpacks in every value that is made of them, against the oracle.
#![no_main]

use dts_fuzz::{blob, reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let data = blob::framed(data);
    let elements = reference::listpack(&data);
    blob::agrees(&blob::snapshot(20, &[], &data, &[]), blob::items("SetMember", &elements));
    blob::agrees(&blob::snapshot(18, &[1, 2], &data, &[]), blob::items("ListItem", &elements));
    blob::agrees(&blob::snapshot(16, &[], &data, &[]), blob::pairs(&elements));
    // Scores, expiries and stream entries have rules of their own: whole and in parts have to agree.
    blob::found(&blob::snapshot(17, &[], &data, &[]));
    blob::found(&blob::snapshot(25, &[0; 8], &data, &[]));
    let id = [&[1, 16][..], &[0; 16]].concat();
    blob::found(&blob::snapshot(15, &id, &data, &[0, 0, 0, 0]));
});
