use dts_proto::v1::credential::Secret;
use dts_proto::v1::{
    BorderPolicy, Credential, CrossSlot, Endpoint, Filter, FlushPolicy, Limits, Mode, Network, Ring, RingServer,
    SourceKind, Strays, TargetFence, TargetGuard, TaskSpec, Tls, Topology,
};

use super::difference::paths;
use super::parse;
use super::write::write;

/// A task in which nothing is left at its default.
fn everything() -> TaskSpec {
    let node = |host: &str, secret: Secret| Endpoint {
        host: host.into(),
        port: 6379,
        credential: Some(Credential { username: "dts".into(), secret: Some(secret), password_set: false }),
        tls: Some(Tls { ca_file: "/ca: 1.pem".into(), server_name: "redis".into(), ..Tls::default() }),
        region: "gz".into(),
        network: Network::Cvm.into(),
        routes: false,
        instance_id: "crs-1".into(),
    };
    let spec = TaskSpec {
        name: "true: #1 \"quoted\"\n".into(),
        sources: vec![
            node("10.0.0.1", Secret::PasswordEnv("A".into())),
            node("::1", Secret::PasswordFile("/run/secret".into())),
        ],
        target: Some(Endpoint {
            routes: true,
            tls: Some(Tls::default()),
            network: Network::Vpn.into(),
            ..node("target", Secret::AgentSecret("t".into()))
        }),
        mode: Mode::Sync.into(),
        complete_when_caught_up: true,
        limits: Some(Limits {
            spool_memory_bytes: 1 << 26,
            spool_disk_bytes: (1 << 34) + 1,
            retry_window_seconds: 601,
            read_bytes_per_second: 1 << 30,
            write_bytes_per_second: 1000,
        }),
        allow_downgrade: true,
        filter: Some(Filter {
            include_patterns: vec!["user:*".into(), "*".into(), "- x".into(), "null".into()],
            include_prefixes: vec!["é\t\u{1}".into()],
            exclude_patterns: vec!["1".into()],
            exclude_prefixes: vec!["&a".into()],
            databases: vec![0, 3],
            types: vec!["hash".into()],
            exclude_commands: vec!["publish".into()],
            on_border: BorderPolicy::Skip.into(),
            trust_scripts: true,
        }),
        db_map: [(0, 0), (3, 4)].into(),
        on_flush: FlushPolicy::Stop.into(),
        cross_slot: CrossSlot::Skip.into(),
        topology: Some(Topology {
            kind: SourceKind::Twemproxy.into(),
            found_by: "/etc/nutcracker.yml".into(),
            sentinels: vec![Endpoint { host: "s".into(), port: 26379, ..Endpoint::default() }],
            master_names: vec!["m".into()],
            codis_slots: vec!["0-511,600".into()],
            ring: Some(Ring {
                hash: "fnv1a_64".into(),
                hash_tag: "{}".into(),
                distribution: "ketama".into(),
                servers: vec![RingServer { name: "one".into(), weight: 1 }],
            }),
            strays: Strays::Drop.into(),
        }),
        ..TaskSpec::default()
    };
    TaskSpec {
        share_sources: true,
        target_guard: TargetGuard::Acl.into(),
        target_fence: TargetFence::User.into(),
        ..spec
    }
}

fn problems(text: &str) -> Vec<String> {
    parse(text, false).map_or_else(|found| found.iter().map(ToString::to_string).collect(), |_| Vec::new())
}

#[test]
fn what_is_written_reads_as_the_same_task() {
    let spec = everything();
    let text = write(&spec);
    assert_eq!(parse(&text, false).unwrap_or_else(|found| panic!("{found:?}\n{text}")), spec, "{text}");
    let plain = TaskSpec { name: "only a name".into(), ..TaskSpec::default() };
    assert_eq!(parse(&write(&plain), false), Ok(plain));
}

#[test]
fn a_stored_password_is_kept_by_an_edit_and_never_written_or_created_from() {
    let mut spec = everything();
    let login = Credential { username: String::new(), secret: None, password_set: true };
    spec.target.as_mut().unwrap().credential = Some(login);
    let text = write(&spec);
    assert_eq!(parse(&text, true), Ok(spec.clone()));
    assert!(problems(&text).concat().contains("name one by `env:"));
    spec.target.as_mut().unwrap().credential.as_mut().unwrap().secret = Some(Secret::Password("hunter2".into()));
    assert!(!write(&spec).contains("hunter2"));
    let text = "version: 1\nname: n\nmode: sync\ntarget: {address: a, port: 1, password: hunter2}\nsource: {nodes: [{address: b, port: 1}]}";
    let found = problems(text).join("\n");
    assert!(found.starts_with("4:41: password takes `env:VARIABLE`") && !found.contains("hunter2"), "{found}");
}

#[test]
fn every_problem_is_told_with_its_line_and_column_and_what_is_allowed() {
    let text = "\
version: 2
nmae: orders
mode: copy
source:
  access: {kind: moon}
  nodes:
    - address: redis://10.0.0.1
      port: 0
    - {address: b, port: 1, passwort: x}
    - {address: b, port: 1}
target:
  address: c
limits:
  retry_window: 10
  read_rate: 1 parsec
filter: [a]
on_flush:
db_map: {x: 1, 2: -1}
share_sources: yes
";
    let found = problems(text);
    let expected = [
        "1:1: the task has no name; give it one, such as `name: orders`",
        "1:10: version takes a number from 1 to 1, not \"2\"",
        "2:1: a task has no field \"nmae\"; it may have version, name, mode,",
        "3:7: mode takes sync or migrate, not \"copy\"",
        "5:18: kind takes any or cvm or public or dc or vpn or ccn, not \"moon\"",
        "7:16: address is a name or an IP address alone",
        "8:13: port takes a number from 1 to 65535, not \"0\"",
        "9:29: a node has no field \"passwort\"; it may have instance, address, port, user, password,",
        "10:7: b:1 is listed twice",
        "12:3: target has no port; give it one, such as `port: 6379`",
        "14:17: retry_window takes a time with a unit, such as 90s or 10m, not \"10\"",
        "15:14: read_rate takes a number of bytes, such as 1048576 or 1MiB, not \"1 parsec\"",
        "16:9: filter has to hold fields",
        "17:",
        "18:10: db_map takes numbers of databases",
        "18:19: db_map takes a number from 0 to 2147483647, not \"-1\"",
        "19:16: share_sources takes true or false, not \"yes\"",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n  is not\n{expected}");
    }
}

#[test]
fn what_is_no_task_is_refused_where_it_stands() {
    for (text, expected) in [
        ("", "1:1: the file is empty"),
        ("a: [", "no YAML"),
        ("version: 1\nname: a\nname: b\n", "3:1: name stands twice; it is at 2:1 already"),
        ("version: 1\nname: &x a\n", "2:10: anchors"),
        ("version: 1\nname: a\n---\nname: b\n", "a second document"),
        ("version: 1\nname: a\nmode: sync\n", "the task has no target"),
        ("- a\n", "has to hold fields"),
        ("[a]: b\n", "has to be a word"),
    ] {
        let found = problems(text).join("\n");
        assert!(found.contains(expected), "{text:?}: {found}");
    }
}

#[test]
fn an_edit_names_the_fields_that_change_and_no_others() {
    let before = everything();
    let changed = |change: fn(&mut TaskSpec)| {
        let mut after = before.clone();
        change(&mut after);
        paths(&before, &after).join(",")
    };
    assert_eq!(changed(|_| {}), "");
    assert_eq!(changed(|spec| spec.limits.as_mut().unwrap().read_bytes_per_second = 1), "limits.read_bytes_per_second");
    assert_eq!(changed(|spec| spec.filter.as_mut().unwrap().on_border = 0), "filter.on_border");
    assert_eq!(changed(|spec| spec.filter = None), "filter");
    assert_eq!(changed(|spec| spec.sources[1].tls = None), "sources.tls");
    assert_eq!(changed(|spec| spec.sources[1].port = 1), "sources");
    assert_eq!(changed(|spec| spec.target.as_mut().unwrap().tls = None), "target.tls");
    let other = TaskSpec { name: "other".into(), ..TaskSpec::default() };
    let all = "name,mode,topology,db_map,share_sources,target_guard,target_fence,complete_when_caught_up,allow_downgrade,on_flush,cross_slot,sources,target,filter,\
               limits.spool_memory_bytes,limits.spool_disk_bytes,limits.read_bytes_per_second,limits.write_bytes_per_second,limits.retry_window_seconds";
    assert_eq!(paths(&before, &other).join(","), all);
}
