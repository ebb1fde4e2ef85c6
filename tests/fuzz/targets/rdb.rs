//! RDB files: fed at once, in pieces, and with every value in parts. The first byte says how the file is cut.
#![no_main]

use dts_fuzz::events::{check_error, decode};
use dts_fuzz::pieces::pieces;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((seed, data)) = data.split_first() else { return };
    let (whole, ended) = decode(std::iter::once(data), usize::MAX);
    // The same bytes in pieces give the same events, and the same error at the same place.
    assert_eq!(decode(pieces(*seed, data), usize::MAX), (whole.clone(), ended.clone()));
    // Values in parts give the same if all is well; else the damage may be seen earlier or later, but it is seen.
    let limit = usize::from(seed >> 2);
    let (parts, parts_ended) = decode(pieces(seed.rotate_left(3), data), limit);
    assert_eq!(ended.is_ok(), parts_ended.is_ok(), "{ended:?} {parts_ended:?}");
    match (&ended, &parts_ended) {
        (Err(error), Err(other)) => {
            check_error(error, data.len());
            check_error(other, data.len());
        }
        _ => assert_eq!(whole, parts),
    }
});
