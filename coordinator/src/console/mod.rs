//! The web console: plain HTML, CSS and JavaScript modules, as they stand here. It is a client of the API like every other: docs/console.md.

/// A file of the console.
pub struct Asset {
    /// Where it is served.
    pub path: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// What is in it.
    pub body: &'static [u8],
}

macro_rules! assets {
    ($($path:literal, $kind:literal, $file:literal;)+) => {
        /// All of them.
        pub const ASSETS: &[Asset] = &[$(Asset { path: $path, kind: $kind, body: include_bytes!($file) },)+];
    };
}

assets! {
    "/", "text/html; charset=utf-8", "index.html";
    "/console/style.css", "text/css; charset=utf-8", "style.css";
    "/console/icon.svg", "image/svg+xml", "icon.svg";
    "/console/main.js", "text/javascript; charset=utf-8", "main.js";
    "/console/api.js", "text/javascript; charset=utf-8", "api.js";
    "/console/dom.js", "text/javascript; charset=utf-8", "dom.js";
    "/console/words.js", "text/javascript; charset=utf-8", "words.js";
    "/console/plot.js", "text/javascript; charset=utf-8", "plot.js";
    "/console/tasks.js", "text/javascript; charset=utf-8", "tasks.js";
    "/console/setup.js", "text/javascript; charset=utf-8", "setup.js";
    "/console/servers.js", "text/javascript; charset=utf-8", "servers.js";
    "/console/checks.js", "text/javascript; charset=utf-8", "checks.js";
    "/console/task.js", "text/javascript; charset=utf-8", "task.js";
    "/console/progress.js", "text/javascript; charset=utf-8", "progress.js";
    "/console/actions.js", "text/javascript; charset=utf-8", "actions.js";
    "/console/verification.js", "text/javascript; charset=utf-8", "verification.js";
    "/console/agents.js", "text/javascript; charset=utf-8", "agents.js";
    "/console/alarms.js", "text/javascript; charset=utf-8", "alarms.js";
}
