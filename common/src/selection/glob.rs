//! The patterns of KEYS and SCAN, exactly as servers from 5.0 on match them (`stringmatchlen`), with their peculiarities: a class may be left
//! open, the bytes of a range are signed, and its ends may stand in either order.

/// True if the key fits the pattern.
pub fn fits(pattern: &[u8], key: &[u8]) -> bool {
    // KEYS and SCAN do not even look: it fits the empty key too, which nothing else with a star does.
    if pattern == b"*" {
        return true;
    }
    let (mut at, mut byte) = (0, 0);
    // Where to go on if what follows the last star does not fit: it takes one byte more.
    let mut star: Option<(usize, usize)> = None;
    while at < pattern.len() && byte < key.len() {
        if pattern[at] == b'*' {
            at = behind_stars(pattern, at);
            if at == pattern.len() {
                return true;
            }
            star = Some((at, byte));
            continue;
        }
        match one(&pattern[at..], key[byte]) {
            Some(length) => {
                at += length;
                byte += 1;
                if byte == key.len() {
                    at = behind_stars(pattern, at);
                }
            }
            None => match star {
                Some((behind, from)) => {
                    star = Some((behind, from + 1));
                    (at, byte) = (behind, from + 1);
                }
                None => return false,
            },
        }
        // The pattern is at its end and the key is not: a star may take more.
        if at >= pattern.len() && byte < key.len() {
            let Some((behind, from)) = star else { return false };
            star = Some((behind, from + 1));
            (at, byte) = (behind, from + 1);
        }
    }
    at >= pattern.len() && byte == key.len()
}

fn behind_stars(pattern: &[u8], at: usize) -> usize {
    at + pattern.get(at..).unwrap_or_default().iter().take_while(|byte| **byte == b'*').count()
}

/// What stands at the beginning of the pattern and takes this byte; its length, if it does.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let (taken, length) = in_class(class, byte);
            taken.then_some(1 + length)
        }
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [plain, ..] => (*plain == byte).then_some(1),
        [] => None,
    }
}

/// Whether a class, what follows `[`, has the byte, and its length with the closing bracket, if there is one.
fn in_class(class: &[u8], byte: u8) -> (bool, usize) {
    let inverted = class.first() == Some(&b'^');
    let mut at = usize::from(inverted);
    let mut found = false;
    loop {
        match &class[at..] {
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [] => break,
            [first, b'-', last, ..] => {
                let [first, last, byte] = [*first, *last, byte].map(u8::cast_signed);
                found |= (first.min(last)..=first.max(last)).contains(&byte);
                at += 3;
            }
            [plain, ..] => {
                found |= *plain == byte;
                at += 1;
            }
        }
    }
    (found != inverted, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    // What servers answer to thousands of random patterns: `common/tests/patterns.rs`.
    #[test]
    fn stars_classes_and_escapes_fit_as_on_a_server() {
        for (pattern, key, expected) in [
            ("*", "", true),
            ("**", "", false),
            ("**", "x", true),
            ("", "", true),
            ("a*", "a", true),
            ("a**", "a", true),
            ("*a*b", "xaabab", true),
            ("*ab", "aab", true),
            ("*ab", "abx", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[b-a]", "ha", true),
            ("h[a", "ha", true),
            ("h[", "h", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("\\", "\\", true),
            ("[\\]]", "]", true),
            ("user:*", "user", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), key.as_bytes()), expected, "{pattern:?} {key:?}");
        }
    }
}
