//! Viewer, operator, admin: who has which role, and which one a call takes.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use dts_common::error::{Code, Error, Result};

use super::certificate::{Shown, names};

/// Each may what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Changes tasks, and where they run.
    Operator,
    /// Lets agents in, and reads who did what.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// Methods that begin so change nothing.
const LOOKS: [&str; 5] = ["Get", "List", "Watch", "Explain", "Plan"];

type Named = HashMap<String, Role>;

/// Who has which role, by a name in the certificate.
#[derive(Debug, Default)]
pub struct Roles {
    given: Named,
    file: Option<(PathBuf, Mutex<Read>)>,
}

/// What the file held when it was read last.
#[derive(Debug, Default)]
struct Read {
    stamp: Option<(SystemTime, u64)>,
    named: Arc<Named>,
}

impl Roles {
    /// Of these, and of a file that is read again whenever it changes.
    pub fn new(given: impl IntoIterator<Item = (String, Role)>, file: Option<PathBuf>) -> Result<Self> {
        let mut all = Named::new();
        given.into_iter().for_each(|(name, role)| add(&mut all, name, role));
        let read = |path: PathBuf| {
            let named = Arc::new(parse(&path)?);
            Ok((path, Mutex::new(Read { stamp: None, named })))
        };
        Ok(Self { given: all, file: file.map(read).transpose()? })
    }

    /// The role of a certificate; if no roles are given everybody has the highest.
    pub fn of(&self, certificate: &Shown) -> Option<Role> {
        if self.given.is_empty() && self.file.is_none() { Some(Role::Admin) } else { self.named(certificate) }
    }

    /// The role that a certificate was given by name.
    pub fn named(&self, certificate: &Shown) -> Option<Role> {
        let file = self.file.as_ref().map(|(path, read)| current(path, read));
        let all = self.given.iter().chain(file.iter().flat_map(|named| named.iter()));
        all.filter(|(name, _)| names(&certificate.der, name)).map(|(_, role)| *role).max()
    }
}

/// What the file says now; one that cannot be read leaves what it said before.
fn current(path: &Path, read: &Mutex<Read>) -> Arc<Named> {
    let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
    let stamp = std::fs::metadata(path).and_then(|found| Ok((found.modified()?, found.len()))).ok();
    if stamp.is_none() || stamp != read.stamp {
        match parse(path) {
            Ok(named) => (read.stamp, read.named) = (stamp, Arc::new(named)),
            Err(error) => tracing::error!(%error, "the roles stay as they were"),
        }
    }
    read.named.clone()
}

fn parse(path: &Path) -> Result<Named> {
    let wrong = |why: String| Error::new(Code::InvalidRequest, format!("roles file {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let mut named = Named::new();
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let role = match words.as_slice() {
            ["viewer", _] => Role::Viewer,
            ["operator", _] => Role::Operator,
            ["admin", _] => Role::Admin,
            _ => return Err(wrong(format!("line {number} is not `viewer NAME`, `operator NAME` or `admin NAME`"))),
        };
        add(&mut named, words[1].to_owned(), role);
    }
    Ok(named)
}

/// The highest counts.
fn add(named: &mut Named, name: String, role: Role) {
    let held = named.entry(name).or_insert(role);
    *held = role.max(*held);
}

/// `TaskService/StartTask`.
pub fn method(path: &str) -> &str {
    path.trim_start_matches("/dts.v1.")
}

/// What a call takes; `None`: it is not one of ours, and takes a certificate only.
pub fn needed(path: &str) -> Option<Role> {
    let (service, method) = path.strip_prefix("/dts.v1.")?.split_once('/')?;
    let admin = method.contains("Token") || method.contains("Audit") || method.starts_with("Bar");
    let looks = LOOKS.iter().any(|verb| method.starts_with(verb));
    Some(match service {
        "FleetService" if admin => Role::Admin,
        _ if looks => Role::Viewer,
        _ => Role::Operator,
    })
}

/// True if a call changes something, and is to be noted.
pub fn changes(path: &str) -> bool {
    match path.strip_prefix("/dts.v1.").and_then(|path| path.split_once('/')) {
        Some(("AgentService", _)) | None => false,
        Some((_, method)) => !LOOKS.iter().any(|verb| method.starts_with(verb)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_takes_follows_from_its_name() {
        for (path, role) in [
            ("/dts.v1.TaskService/WatchTask", Some(Role::Viewer)),
            ("/dts.v1.FleetService/ListAgents", Some(Role::Viewer)),
            ("/dts.v1.TaskService/CompleteTask", Some(Role::Operator)),
            ("/dts.v1.FleetService/DrainAgent", Some(Role::Operator)),
            ("/dts.v1.FleetService/ListAudit", Some(Role::Admin)),
            ("/dts.v1.FleetService/CreateToken", Some(Role::Admin)),
            ("/grpc.health.v1.Health/Check", None),
        ] {
            assert_eq!(needed(path), role, "{path}");
        }
    }

    #[test]
    fn a_roles_file_that_breaks_leaves_the_roles_and_one_that_is_mended_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# people\nviewer ann\n\nadmin  boss\n").unwrap();
        let roles = Roles::new([], Some(file.path().to_owned())).unwrap();
        let (path, read) = roles.file.as_ref().unwrap();
        let says = || current(path, read).get("ann").copied();
        assert_eq!(says(), Some(Role::Viewer));
        std::fs::write(file.path(), "king ann\n").unwrap();
        assert_eq!(says(), Some(Role::Viewer));
        std::fs::write(file.path(), "operator ann\nviewer ann\n").unwrap();
        assert_eq!(says(), Some(Role::Operator), "the highest counts");
        assert!(Roles::new([], Some("/nowhere/roles".into())).is_err());
    }
}
