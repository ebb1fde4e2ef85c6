//! A command as a list of words, wherever they lie.

/// The words of one command; word 0 is its name.
pub trait Words {
    /// How many there are.
    fn count(&self) -> usize;
    /// One of them, if there are so many.
    fn word(&self, at: usize) -> Option<&[u8]>;
}

impl<T: AsRef<[u8]>> Words for [T] {
    fn count(&self) -> usize {
        self.len()
    }

    fn word(&self, at: usize) -> Option<&[u8]> {
        self.get(at).map(AsRef::as_ref)
    }
}
