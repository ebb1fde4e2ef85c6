//! `dts task export`, `dts task edit`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use dts_proto::v1::task_service_client::TaskServiceClient;
use dts_proto::v1::{GetTaskRequest, Task, TaskSpec, UpdateTaskRequest};
use serde_json::json;
use tonic::transport::Channel;

use super::difference::paths;
use super::{checked, text};
use crate::coordinator::{explain, traced};
use crate::task::only;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Print a task as the file that creates an equal one (docs/task-file.md). No password is in it.
    Export {
        /// Id or name.
        id: Option<String>,
    },
    /// Change a task by its file.
    Edit(Edit),
}

#[derive(Debug, Args)]
#[group(id = "how", required = true, multiple = false)]
struct How {
    /// What it shall be: a task file; `-` is standard input.
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// Open its file in $VISUAL or $EDITOR.
    #[arg(long)]
    editor: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Edit {
    /// Id or name.
    id: Option<String>,
    #[command(flatten)]
    how: How,
}

/// Does it; a task is what is left to show.
pub(crate) async fn run(verb: Verb, client: &mut TaskServiceClient<Channel>, json: bool) -> Result<Option<Task>> {
    match verb {
        Verb::Export { id } => {
            let task = get(client, id).await?;
            let file = super::write::write(&task.spec.unwrap_or_default());
            if json {
                println!("{}", json!({"event": "export", "id": task.id, "file": file}));
            } else {
                print!("{file}");
            }
            Ok(None)
        }
        Verb::Edit(edit) => self::edit(client, edit).await.map(Some),
    }
}

async fn get(client: &mut TaskServiceClient<Channel>, id: Option<String>) -> Result<Task> {
    let id = only(client, id).await?;
    Ok(client.get_task(traced(GetTaskRequest { id })).await.map_err(|status| explain(&status))?.into_inner())
}

async fn edit(client: &mut TaskServiceClient<Channel>, edit: Edit) -> Result<Task> {
    let task = get(client, edit.id).await?;
    let before = task.spec.clone().unwrap_or_default();
    let after = match edit.how.file {
        Some(path) => checked(&path, &text(&path)?, true)?,
        None => in_editor(&before)?,
    };
    let changed = paths(&before, &after);
    if changed.is_empty() {
        eprintln!("dts: nothing changes");
        return Ok(task);
    }
    eprintln!("dts: changes {}", changed.join(", "));
    let request = UpdateTaskRequest {
        id: task.id,
        // Somebody else's edit in between is not overwritten.
        revision: task.revision,
        spec: Some(after),
        update_mask: Some(prost_types::FieldMask { paths: changed }),
    };
    Ok(client.update_task(traced(request)).await.map_err(|status| explain(&status))?.into_inner())
}

/// Lets the user write. A file with mistakes is left where it is.
fn in_editor(before: &TaskSpec) -> Result<TaskSpec> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|of| !of.is_empty()));
    let editor = editor.context("neither $VISUAL nor $EDITOR names an editor; `dts task edit -f FILE` needs none")?;
    let path = std::env::temp_dir().join(format!("dts-task-{}.yaml", uuid::Uuid::new_v4()));
    let mut file = private(&path).with_context(|| format!("{}", path.display()))?;
    file.write_all(super::write::write(before).as_bytes())?;
    drop(file);
    // It may have arguments of its own.
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or_default();
    let status = Command::new(program).args(words).arg(&path).status().with_context(|| format!("editor {editor}"))?;
    if !status.success() {
        let _may_stay = std::fs::remove_file(&path);
        bail!("the editor gave up ({status}): nothing was changed");
    }
    let written = std::fs::read_to_string(&path)?;
    let spec = checked(&path, &written, true)
        .context(format!("the file stays: correct it, then `dts task edit -f {}`", path.display()))?;
    let _may_stay = std::fs::remove_file(&path);
    Ok(spec)
}

/// Hosts and users are in it.
fn private(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
