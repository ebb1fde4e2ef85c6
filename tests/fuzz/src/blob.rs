//! Compact blobs, looked at through the values that hold them.

use crate::events::{check_error, decode};

/// The mark behind listpacks and ziplists.
const END: u8 = 0xFF;

/// Makes the length in the header and the end mark right, so that what stands between is reached.
pub fn framed(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    if let (Ok(length), Some(last)) = (u32::try_from(data.len()), data.len().checked_sub(1).filter(|last| *last > 4)) {
        data[..4].copy_from_slice(&length.to_le_bytes());
        data[last] = END;
    }
    data
}

/// A payload with one key, whose value is of type `code` and made of these parts.
pub fn snapshot(code: u8, before: &[u8], blob: &[u8], after: &[u8]) -> Vec<u8> {
    let mut out = b"REDIS0012".to_vec();
    out.extend_from_slice(&[code, 1, b'k']);
    out.extend_from_slice(before);
    push_string(&mut out, blob);
    out.extend_from_slice(after);
    out.extend_from_slice(&[END, 0, 0, 0, 0, 0, 0, 0, 0]);
    out
}

fn push_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(0x80);
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Decodes it at once and by its elements; both have to agree. `None`: refused.
pub fn found(snapshot: &[u8]) -> Option<Vec<String>> {
    let (whole, ended) = decode(std::iter::once(snapshot), usize::MAX);
    let (parts, parts_ended) = decode(crate::pieces::pieces(1, snapshot), 4);
    assert_eq!(ended.is_ok(), parts_ended.is_ok(), "{ended:?} {parts_ended:?}");
    for error in [&ended, &parts_ended].into_iter().filter_map(|ended| ended.as_ref().err()) {
        check_error(error, snapshot.len());
    }
    ended.ok()?;
    assert_eq!(whole, parts);
    Some(whole)
}

/// The value of type `code` is refused, or holds what the oracle says, each of them put into words by `word`.
pub fn agrees(snapshot: &[u8], oracle: Option<Vec<String>>) {
    let found = found(snapshot).map(|events| events[1..events.len() - 1].to_vec());
    assert_eq!(found, oracle);
}

/// In the words of [`crate::events`].
pub fn items(name: &str, elements: &Option<Vec<Vec<u8>>>) -> Option<Vec<String>> {
    Some(elements.as_ref()?.iter().map(|element| format!("{name}({element:?})")).collect())
}

/// Fields and values in the words of [`crate::events`]; `None` if one is without the other.
pub fn pairs(elements: &Option<Vec<Vec<u8>>>) -> Option<Vec<String>> {
    let chunks = elements.as_ref()?.chunks_exact(2);
    let words =
        |pair: &[Vec<u8>]| format!("HashField {{ field: {:?}, value: {:?}, expire_at_ms: None }}", pair[0], pair[1]);
    chunks.remainder().is_empty().then(|| chunks.map(words).collect())
}
