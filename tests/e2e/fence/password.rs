//! What becomes of the user's password.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use dts_tests::server::Server;
use serde_json::json;

use super::{SOURCE, completed, fenced, follows, peopled, user, users};
use crate::life::Desk;
use crate::{locked, until};

/// A line to a server that keeps what is said to it.
fn overheard(server: &Server) -> Result<(u16, Arc<Mutex<Vec<u8>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (port, to, heard) = (listener.local_addr()?.port(), server.port, Arc::new(Mutex::new(Vec::new())));
    let kept = heard.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(std::result::Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { return };
            for (from, to, up) in [(&client, &server, true), (&server, &client, false)] {
                let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
                let kept = kept.clone();
                std::thread::spawn(move || {
                    let mut piece = vec![0; 16 << 10];
                    while let Ok(length @ 1..) = from.read(&mut piece) {
                        if up {
                            locked(&kept).extend_from_slice(&piece[..length]);
                        }
                        if to.write_all(&piece[..length]).is_err() {
                            break;
                        }
                    }
                    let _ends_with_either = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    Ok((port, heard))
}

/// Every file below a directory that holds one of these texts.
fn holding(dir: &Path, texts: &[&str]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(holding(&path, texts)?);
        } else if path.is_file() {
            let bytes = std::fs::read(&path)?;
            let holds = |text: &&str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            found.extend(texts.iter().filter(|text| holds(text)).map(|_| path.display().to_string()));
        }
    }
    Ok(found)
}

#[test]
fn the_password_of_such_a_user_stands_nowhere_and_is_worth_nothing_behind_a_takeover() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", SOURCE)?, peopled("redis-7.0")?);
    let (port, heard) = overheard(&target)?;
    let mut desk = Desk::without_agents()?;
    let log = desk.dir().join("agent.log");
    desk.talking_agent("first", &log)?;
    let mut asked = fenced(&source, &target);
    asked["target"]["port"] = json!(port);
    desk.create(&asked)?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    follows(&desk, "first")?;
    let name = user(&desk)?;
    let said = String::from_utf8_lossy(&locked(&heard)).into_owned();
    let login = format!("AUTH\r\n${}\r\n{name}\r\n$64\r\n", name.len());
    let at = said.find(&login).context("it did not log in")? + login.len();
    let password = said[at..at + 64].to_owned();
    let as_user = || {
        redis::Client::open(format!("redis://{}:{password}@127.0.0.1:{}", name.replace(':', "%3A"), target.port))?
            .get_connection()
    };
    // It may write, and nothing that administers.
    let mut connection = as_user()?;
    redis::cmd("SET").arg("x").arg(1).exec(&mut connection)?;
    redis::cmd("DEL").arg("x").exec(&mut connection)?;
    for command in [
        &["CONFIG", "GET", "save"][..],
        &["ACL", "LIST"],
        &["SHUTDOWN"],
        &["REPLICAOF", "NO", "ONE"],
        &["MODULE", "LIST"],
    ] {
        let mut asked = redis::cmd(command[0]);
        command[1..].iter().for_each(|word| {
            asked.arg(*word);
        });
        let refused = asked.exec(&mut connection).unwrap_err().to_string();
        ensure!(refused.to_lowercase().contains("permissions"), "{command:?}: {refused}");
    }
    let rules = users(&target)?;
    let hash = rules.iter().find(|line| line.contains(&name)).and_then(|line| line.split_once('#')?.1.get(..64));
    let hash = hash.context("a hash")?.to_owned();
    // What is said nowhere cannot be found: the log has to be one.
    ensure!(std::fs::read_to_string(&log)?.len() > 1000, "nothing was logged");
    desk.agent("second")?;
    desk.call("PauseTask", json!({}))?;
    desk.becomes("PAUSED")?;
    desk.call("ResumeTask", json!({}))?;
    until("another epoch", || Ok(user(&desk)? != name && desk.get()?["readyToComplete"] == true))?;
    ensure!(redis::cmd("SET").arg("x").arg(1).exec(&mut connection).is_err(), "an old connection writes");
    let refused = as_user().err().context("an old password is taken")?.to_string();
    ensure!(refused.contains("WRONGPASS") || refused.to_lowercase().contains("auth"), "{refused}");
    let task = desk.get()?.to_string();
    completed(&desk)?;
    ensure!(!task.contains(&password) && !task.contains(&hash), "the task shows it");
    let found = holding(desk.dir(), &[&password, &hash])?;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}
