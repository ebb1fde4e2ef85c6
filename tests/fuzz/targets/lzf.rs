//! LZF whole and in pieces, against the oracle. The first byte says how it is cut.
#![no_main]

use dts_common::redis::lzf::{Inflate, decompress};
use dts_fuzz::pieces::pieces;
use dts_fuzz::reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((seed, data)) = data.split_first() else { return };
    let oracle = reference::lzf(data);
    let length = oracle.as_ref().map_or(data.len(), Vec::len);
    for claimed in [length, length + 1, length.saturating_sub(1)] {
        let mut out = b"before".to_vec();
        let whole = decompress(data, claimed, &mut out).map(|()| out[6..].to_vec());
        assert_eq!(whole, oracle.clone().filter(|oracle| oracle.len() == claimed));
        // A back reference is at most 264 long.
        assert!(out.len() <= 6 + claimed + 264);
    }
    let (mut inflate, mut out) = (Inflate::default(), Vec::new());
    let sound = pieces(*seed, data).all(|piece| inflate.feed(piece, &mut out).is_some());
    assert_eq!((sound && inflate.is_whole()).then_some(out), oracle);
});
