//! Commands of a module, a real one that is compiled here: they pass where the target knows them, and stop by name where not.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use dts_tests::dts::Dts;
use dts_tests::server::Server;

use super::QUICK;
use crate::{state, until};

/// `PROBE.PUT key value` sets a string and replicates itself. What it uses of the module interface is declared here.
pub(crate) const SOURCE: &str = r#"
#include <stddef.h>
typedef struct Ctx Ctx; typedef struct Str Str; typedef struct Reply Reply;
typedef int (*Command)(Ctx *, Str **, int);
static int (*set_attribs)(Ctx *, const char *, int, int);
static int (*create_command)(Ctx *, const char *, Command, const char *, int, int, int);
static Reply *(*call)(Ctx *, const char *, const char *, ...);
static int (*replicate)(Ctx *);
static int (*reply_ok)(Ctx *, const char *);
static int put(Ctx *ctx, Str **argv, int argc) {
    if (argc != 3) return 1;
    call(ctx, "SET", "ss", argv[1], argv[2]);
    replicate(ctx);
    return reply_ok(ctx, "OK");
}
int RedisModule_OnLoad(Ctx *ctx, Str **argv, int argc) {
    int (*get)(const char *, void *) = *(int (**)(const char *, void *))ctx;
    (void)argv; (void)argc;
    get("RedisModule_SetModuleAttribs", &set_attribs);
    get("RedisModule_CreateCommand", &create_command);
    get("RedisModule_Call", &call);
    get("RedisModule_ReplicateVerbatim", &replicate);
    get("RedisModule_ReplyWithSimpleString", &reply_ok);
    set_attribs(ctx, "probe", 1, 1);
    return create_command(ctx, "probe.put", put, "write deny-oom", 1, 1, 1);
}
"#;

fn compile(dir: &Path) -> Result<PathBuf> {
    let (source, module) = (dir.join("probe.c"), dir.join("probe.so"));
    std::fs::write(&source, SOURCE)?;
    let done = Command::new("gcc").args(["-shared", "-fPIC", "-w", "-o"]).arg(&module).arg(&source).status()?;
    ensure!(done.success(), "gcc");
    Ok(module)
}

#[test]
fn a_modules_command_passes_where_the_target_knows_it_and_stops_by_name_where_not() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let module = compile(dir.path())?.display().to_string();
    let with = ["--loadmodule", module.as_str()];
    let source = Server::start("redis-7.0", &[QUICK, &with].concat())?;
    let mut connection = source.connect()?;
    for (target, flags) in [(&with[..], &[][..]), (&[], &[]), (&with, &["--include-key", "k*"])] {
        let target = Server::start("redis-7.0", target)?;
        let (_dir, state) = state()?;
        let knows = redis::cmd("PROBE.PUT").arg("first").arg(1).query::<String>(&mut target.connect()?).is_ok();
        redis::cmd("FLUSHALL").exec(&mut target.connect()?)?;
        let dts = Dts::migrate(&source.url(), &target.url(), &state, flags)?;
        dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
        redis::cmd("PROBE.PUT").arg("key").arg("value").exec(&mut connection)?;
        if knows && flags.is_empty() {
            until("the key", || {
                let value: Option<String> = redis::cmd("GET").arg("key").query(&mut target.connect()?)?;
                Ok(value.as_deref() == Some("value"))
            })?;
            dts.kill()?;
        } else {
            let (code, events) = dts.end()?;
            let expected = if knows { "FILTER_BORDER" } else { "TARGET_UNSUPPORTED" };
            let failed = events.iter().find(|event| event["event"] == "failed").cloned().unwrap_or_default();
            ensure!(code == Some(1) && failed["code"] == expected, "{failed}");
            ensure!(failed["message"].as_str().is_some_and(|message| message.contains("PROBE.PUT")), "{failed}");
        }
        redis::cmd("DEL").arg("key").exec(&mut connection)?;
    }
    Ok(())
}
