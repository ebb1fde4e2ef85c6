//! Against a real etcd.

use dts_tests::etcd::{Etcd as Server, certificates};

use super::super::Event;
use super::super::conformance::{self, next, put};
use super::*;

fn store(server: &Server) -> Etcd {
    let config = Config { endpoints: server.endpoints(), prefix: "/dts".into(), ..Config::default() };
    Etcd::new(config).unwrap()
}

#[tokio::test]
async fn it_does_what_every_store_has_to() {
    let server = Server::start(1).unwrap();
    server.ctl(&["put", "/dtsx/a/1", "somebody else's"]).unwrap();
    conformance::all(&store(&server), async |store: &Etcd| {
        let revision = store.snapshot("").await.unwrap().1.to_string();
        server.ctl(&["compact", &revision]).unwrap();
    })
    .await;
}

#[tokio::test]
async fn calls_and_watches_outlive_members_and_leaders() {
    let mut server = Server::start(3).unwrap();
    let store = store(&server);
    let mut watch = store.watch("k", 0);
    assert_eq!(next(&mut watch).await, Event::Reset(vec![]));
    for round in 0..3 {
        let leader = server.leader().unwrap();
        server.kill(leader).unwrap();
        let name = format!("k{round}");
        let revision = loop {
            // Without a leader nothing is written; it comes back by itself.
            match store.commit(put(&name, "v", Some(0))).await {
                Ok(committed) => break committed.expect("nobody else writes"),
                Err(error) => assert_eq!(error.code, Code::StoreUnavailable),
            }
        };
        let expected = Event::Put(name, Versioned { value: b"v".to_vec(), revision });
        assert_eq!(next(&mut watch).await, expected);
        server.restart(leader).unwrap();
    }
}

#[tokio::test]
async fn a_watch_outlives_a_restart_and_a_compaction_that_it_missed() {
    let mut server = Server::start(1).unwrap();
    let store = store(&server);
    let mut watch = store.watch("k", 0);
    assert_eq!(next(&mut watch).await, Event::Reset(vec![]));
    store.commit(put("k1", "v", None)).await.unwrap().unwrap();
    assert!(matches!(next(&mut watch).await, Event::Put(key, _) if key == "k1"));
    server.kill(0).unwrap();
    assert_eq!(store.get("k1").await.unwrap_err().code, Code::StoreUnavailable);
    server.restart(0).unwrap();
    for _ in 0..3 {
        server.ctl(&["put", "/dts/k2", "v"]).unwrap();
    }
    let revision = store.snapshot("").await.unwrap().1.to_string();
    server.ctl(&["compact", &revision]).unwrap();
    // Whether it came back before the compaction or after: in the end it knows of k2.
    loop {
        match next(&mut watch).await {
            Event::Put(key, _) if key == "k2" => break,
            Event::Reset(found) if found.iter().any(|(key, _)| key == "k2") => break,
            Event::Put(..) | Event::Reset(_) => {}
            Event::Delete(key, _) => panic!("{key} was not deleted"),
        }
    }
}

#[tokio::test]
async fn a_member_that_hangs_is_passed_over() {
    let server = Server::start(3).unwrap();
    let store = store(&server);
    store.commit(put("k", "v", None)).await.unwrap().unwrap();
    // The store speaks to the first member.
    let pid = server.pid(0).unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    let begun = std::time::Instant::now();
    let committed = store.commit(put("k", "w", None)).await;
    let took = begun.elapsed();
    assert!(std::process::Command::new("kill").args(["-CONT", &pid]).status().unwrap().success());
    // If it led, the others had to notice first.
    assert!(committed.is_ok() || committed.unwrap_err().code == Code::StoreUnavailable);
    assert!(took < Duration::from_secs(7), "{took:?}");
    assert!(store.commit(put("k", "x", None)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_recognised() {
    let server = Server::start(1).unwrap();
    let store = store(&server);
    let transaction = put("k", "mine", Some(0));
    let revision = store.commit(transaction.clone()).await.unwrap().unwrap();
    let again = |transaction: Transaction| {
        let store = store.clone();
        async move {
            let request = store.request(&transaction);
            let ask = |mut client: etcd_client::Client| {
                let request = request.clone();
                async move { client.txn(request).await }
            };
            let answer = store.0.members.call("again", ask).await.unwrap();
            assert!(!answer.succeeded());
            made_before(&transaction, answer.op_responses(), 0)
        }
    };
    assert_eq!(again(transaction).await, Some(revision));
    assert_eq!(again(put("k", "another's", Some(0))).await, None);
}

#[tokio::test]
async fn it_logs_in_and_logs_in_again() {
    let mut server = Server::start(1).unwrap();
    for command in [
        ["user", "add", "root:toor"].as_slice(),
        &["user", "grant-role", "root", "root"],
        &["user", "add", "dts:hunter2"],
        &["role", "add", "dts"],
        &["role", "grant-permission", "dts", "--prefix=true", "readwrite", "/dts/"],
        &["user", "grant-role", "dts", "dts"],
        &["auth", "enable"],
    ] {
        server.ctl(command).unwrap();
    }
    let with = |password: &str, prefix: &str| {
        let login = Some(("dts".to_owned(), password.to_owned().into()));
        let config = Config { endpoints: server.endpoints(), prefix: prefix.into(), login, ..Config::default() };
        Etcd::new(config).unwrap()
    };
    let (good, wrong, elsewhere) = (with("hunter2", "/dts"), with("wrong", "/dts"), with("hunter2", "/other"));
    good.commit(put("k", "v", None)).await.unwrap().unwrap();
    for refused in [wrong, elsewhere, store(&server)] {
        assert_eq!(refused.get("k").await.unwrap_err().code, Code::StoreRefused);
    }
    // A restart forgets who logged in.
    server.kill(0).unwrap();
    server.restart(0).unwrap();
    assert!(good.commit(put("k", "w", None)).await.unwrap().is_some());
    let mut watch = good.watch("k", 0);
    assert!(matches!(next(&mut watch).await, Event::Reset(found) if found.len() == 1));
    let lease = good.grant(Duration::from_secs(5)).await.unwrap();
    assert!(good.keep_alive(lease).await.unwrap());
}

#[tokio::test]
async fn it_speaks_tls_with_a_certificate_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let ours = certificates(dir.path()).unwrap();
    let server = Server::start_with(1, Some(&ours)).unwrap();
    let config = Config {
        endpoints: server.endpoints(),
        prefix: "/dts".into(),
        ca: Some(ours.ca.clone()),
        identity: Some(ours.identity.clone()),
        ..Config::default()
    };
    let store = Etcd::new(config.clone()).unwrap();
    assert!(store.commit(put("k", "v", Some(0))).await.unwrap().is_some());
    let without = Etcd::new(Config { identity: None, ..config }).unwrap();
    assert_eq!(without.get("k").await.unwrap_err().code, Code::StoreUnavailable);
}
