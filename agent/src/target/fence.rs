//! The fence can be switched off, so that the tests prove that they would see a second writer. Never in a release build.

use std::sync::LazyLock;

static OFF: LazyLock<bool> =
    LazyLock::new(|| cfg!(debug_assertions) && std::env::var_os("DTS_UNFENCED_FOR_TESTS").is_some());

pub(super) fn is_off() -> bool {
    *OFF
}
