//! A short hash tag for every slot, so that a key of ours can stand in the slot that it speaks of.

use std::sync::LazyLock;

use super::slot::{SLOTS, slot};

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut tags = vec![String::new(); usize::from(SLOTS)];
    let (mut missing, mut number) = (tags.len(), 0);
    while missing > 0 {
        let tag = text(number);
        number += 1;
        if let Some(place) = tags.get_mut(usize::from(slot(tag.as_bytes()))).filter(|place| place.is_empty()) {
            *place = tag;
            missing -= 1;
        }
    }
    tags
});

fn text(mut number: usize) -> String {
    let mut text = String::new();
    loop {
        text.push(char::from(DIGITS[number % DIGITS.len()]));
        number /= DIGITS.len();
        if number == 0 {
            return text;
        }
    }
}

/// The tag of a slot: `{tag}` anywhere first in a key puts the key there.
pub fn tag(slot: u16) -> &'static str {
    TAGS.get(usize::from(slot)).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_short_tag_that_hashes_to_it() {
        for number in 0..SLOTS {
            assert_eq!(slot(format!("before:{{{}}}:behind", tag(number)).as_bytes()), number);
            assert!((1..=4).contains(&tag(number).len()), "{number}");
        }
        let different: std::collections::HashSet<_> = (0..SLOTS).map(tag).collect();
        assert_eq!(different.len(), usize::from(SLOTS));
    }
}
