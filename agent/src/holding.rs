//! A way back begins on a server that has keys already: their expiries are held like those that a copy brings, before the stream touches them.
//! Else a key whose expiry the new side refreshes would die here while the refresh is on its way.

use dts_common::error::Result;
use dts_common::redis::expiry::{hold, restore};
use dts_common::redis::resp;

use crate::apply::{Driver, Mode};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::restore::{Page, ttls};
use crate::sweep::{self, Scan};

/// How much of the stream is applied between two pages, so that it does not fall behind.
const STEPS_BETWEEN_PAGES: usize = 256;

impl Driver {
    /// Walks over every key of ours once. Cut off and begun again it ends the same.
    pub(crate) async fn hold_what_is_there(&mut self) -> Result<()> {
        let destination = self.context.destination.clone();
        loop {
            let parts = destination.parts().await?;
            let mut walked = Ok(());
            for server in &parts.servers {
                walked = self.hold_on(server).await;
                if walked.is_err() {
                    break;
                }
            }
            let stopped = walked.is_ok() && !self.streams();
            if stopped || destination.has_shown_all(&parts, walked).await? {
                return Ok(());
            }
            self.quiet().await?;
        }
    }

    async fn hold_on(&mut self, server: &Endpoint) -> Result<()> {
        let mut scan = Scan::open(server, |counts| !counts.contains("expires=0,")).await?;
        let mut client = Client::connect(server, Side::Target).await?;
        while let Some(mut page) = scan.next_page().await? {
            if !self.streams() {
                return Ok(());
            }
            // Those of other shards are theirs: their streams refresh them.
            page.keys.retain(|key| self.context.owner.may_own(key));
            let held = held(&mut client, &page).await?;
            self.write_page(held).await?;
            for _ in 0..STEPS_BETWEEN_PAGES {
                match self.reader.try_next()? {
                    Some(record) => self.take(record).await?,
                    None => break,
                }
            }
            // Nothing of ours may change a key between reading its expiry and writing it.
            self.quiet().await?;
        }
        Ok(())
    }

    fn streams(&self) -> bool {
        !self.released() && matches!(self.mode, Mode::Streaming(_))
    }
}

/// What the keys of a page need.
async fn held(client: &mut Client, page: &sweep::Page) -> Result<Page> {
    let db = page.db.to_string();
    client.call(&[b"SELECT", db.as_bytes()]).await?;
    let expiries = ttls(client, &page.keys).await?;
    let (mut bytes, mut commands) = (Vec::new(), 0);
    resp::command(&mut bytes, &[b"SELECT", db.as_bytes()]);
    for (key, at) in page.keys.iter().zip(expiries).filter(|(_, at)| *at >= 0 && restore(*at).is_none()) {
        resp::command(&mut bytes, &[b"PEXPIREAT", key, hold(at).to_string().as_bytes()]);
        commands += 1;
    }
    resp::command(&mut bytes, &[b"SELECT", b"0"]);
    Ok(match commands {
        0 => Page { bytes: Vec::new().into(), commands: 0 },
        commands => Page { bytes: bytes.into(), commands: commands + 2 },
    })
}
