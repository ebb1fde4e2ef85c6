//! CLIENT LIST, read: who is not of ours, and did something since the look before. Pure.

use std::collections::{BTreeSet, HashMap};

/// Connections of ours bear a name that begins so.
pub(super) const OURS: &str = "dts";

/// What connections of ours run that do not write.
const QUESTIONS: [&str; 6] = ["info", "ping", "client", "acl", "command", "cluster"];

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// `address (command)` of those whose last command writes, and came since the look before.
    pub(super) writers: Vec<String>,
    /// Not every write since the look before is somebody else's: ours have written, or came, or went, or the server follows a master.
    pub(super) is_shared: bool,
}

/// Remembers when each connection did something last.
#[derive(Debug, Default)]
pub(super) struct Clients {
    acted: HashMap<u64, u64>,
    ours: BTreeSet<u64>,
    followed: bool,
}

impl Clients {
    /// `writes` are names of commands. The first look finds nobody: what was before it is not known.
    pub(super) fn look(&mut self, list: &str, writes: &BTreeSet<String>) -> Looked {
        let mut looked = Looked::default();
        let (mut now, mut ours, mut follows, mut we_wrote) = (HashMap::new(), BTreeSet::new(), false, false);
        let begins = self.acted.is_empty();
        for line in list.lines() {
            let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let number = |name: &str| field(name)?.parse::<u64>().ok();
            let (Some(id), Some(age), Some(idle)) =
                (number("id").or_else(|| number("fd")), number("age"), number("idle"))
            else {
                continue;
            };
            // Seconds from its beginning to its last command: as long as nothing comes this stays, but for a rounding.
            let acted = age.saturating_sub(idle);
            let before = self.acted.get(&id).copied();
            now.insert(id, acted.max(before.unwrap_or(0)));
            let is_new = before.is_none_or(|before| acted > before) && !begins && idle <= 1;
            let command = field("cmd").unwrap_or_default();
            // A master that we do not know of, or a replica.
            let flags = field("flags").unwrap_or_default();
            let is_link = flags.contains(['S', 'M']);
            follows |= flags.contains('M');
            let name = command.split('|').next().unwrap_or_default();
            if field("name").is_some_and(|name| name.starts_with(OURS)) {
                // Behind what it wrote a writer asks for its record again. Seconds are coarse: rather too often than too seldom.
                we_wrote |= idle <= 2 && !QUESTIONS.contains(&name);
                ours.insert(id);
                continue;
            }
            let may_write = writes.contains(name) || matches!(name, "exec" | "eval" | "evalsha" | "fcall");
            if is_new && !is_link && may_write {
                looked.writers.push(format!("{} ({command})", field("addr").unwrap_or("?")));
            }
        }
        // A master that fails over applies the new one's stream; a connection that is gone may have written before.
        looked.is_shared = we_wrote || follows || self.followed || ours != self.ours;
        (self.acted, self.ours, self.followed) = (now, ours, follows);
        looked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u64, name: &str, age: u64, idle: u64, command: &str) -> String {
        format!("id={id} addr=10.0.0.{id}:5 fd=8 name={name} age={age} idle={idle} flags=N db=0 cmd={command}\n")
    }

    #[test]
    fn a_write_of_somebody_else_is_seen_once_and_ours_and_reads_are_not() {
        let writes = BTreeSet::from(["set".to_owned()]);
        let mut clients = Clients::default();
        assert_eq!(clients.look(&line(1, "", 9, 0, "set"), &writes), Looked::default());
        let list = [line(1, "", 10, 1, "set"), line(2, "", 5, 0, "set"), line(3, "", 5, 0, "get")].concat();
        assert_eq!(clients.look(&list, &writes).writers, ["10.0.0.2:5 (set)"]);
        let list = [line(1, "", 11, 2, "set"), line(2, "", 6, 1, "set"), line(4, "dts:t:0:1:f", 3, 0, "exec")].concat();
        let looked = clients.look(&list, &writes);
        assert!(looked.is_shared && looked.writers.is_empty(), "{looked:?}");
        assert_eq!(clients.look(&line(1, "", 12, 0, "set"), &writes).writers, ["10.0.0.1:5 (set)"]);
    }

    #[test]
    fn what_a_server_has_run_is_not_all_of_others_while_it_follows_a_master_or_ours_come_and_go() {
        let mut clients = Clients::default();
        let mut shared = |list: &str| clients.look(list, &BTreeSet::new()).is_shared;
        let ours = line(1, "dts:t:0:1:w", 90, 9, "get");
        assert!(shared(&ours), "it has come");
        assert!(!shared(&ours));
        let master = line(7, "", 3, 0, "set").replace("flags=N", "flags=M");
        assert!(shared(&[&ours[..], &master].concat()), "it follows");
        assert!(shared(&ours), "it followed until now");
        assert!(!shared(&ours));
        assert!(shared(&line(2, "", 5, 0, "get")), "ours has gone");
        assert!(!shared(&line(2, "", 6, 0, "get")));
    }
}
