//! The resend log in an SQL database: all behaviour, written once, on top of the differences that a `Dialect` describes.

mod act;
mod batch;
mod claim;
mod complete;
mod connections;
mod decode;
mod dialect;
mod guard;
mod insert;
mod lapsed;
mod leftovers;
mod listen;
mod lock;
mod look;
mod migrate;
mod mysql;
pub(crate) mod nodelay;
mod nodes;
mod open;
mod part;
mod pool;
mod postgres;
mod purge;
mod sample;
mod shape;
mod sheet;
mod sqlite;
mod strays;
mod template;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{
    Attempt, Changed, Claim, Claimed, Completion, Config, Count, Error, Heartbeat, Held, Id, Insert, Inserted, Lapsed, List, MAX_PAGE_BYTES,
    Observer, Outlook, Page, Prepared, Purge, Purged, Record, Sample, Served, Store, Strays, Sweep, Swept, TakeOver, Taken, Unserved, Upcoming,
};
use crate::fault::{self, Fault};
use dialect::Dialect;
use pool::{Core, Work};
use sample::Turn;

pub use guard::Guard;
pub(crate) use open::file as sqlite_file;
pub use open::{Unprinted, print_sql};

/// Builds the store for a configuration.
pub(super) fn open(config: &Config, project: &str, observer: Observer) -> Result<Arc<dyn Store>, Vec<Fault>> {
    open::open(config, project, observer)
}

/// Keeps other nodes off a store that serves only one at a time.
pub(super) fn guard(config: &Config) -> Result<Option<Guard>, Error> {
    match open::target(config) {
        Ok(open::Target::Sqlite(file)) => Guard::take(&file).map(Some),
        Ok(_) => Ok(None),
        Err(faults) => Err(Error::Config(fault::line_within("store", faults))),
    }
}

/// The resend log in one database.
#[derive(Debug)]
struct SqlStore<D: Dialect> {
    core: Arc<Core<D>>,
    migrate: super::config::Migrate,
    /// Where the last take-over in parts stopped.
    lapsed: Mutex<lapsed::Place>,
}

impl<D: Dialect> SqlStore<D> {
    /// One message, by its id as it is stored.
    async fn show(&self, project: &str, id: Id, payload: bool) -> Result<Option<Record>, Error> {
        let project = project.to_owned();
        self.core.look("get", move |session| Box::pin(async move { look::get(session, &project, &id, payload).await })).await
    }

    /// Counts waiting messages by source and state; the sources in `own` are always counted by name.
    async fn count(&self, project: &str, own: Vec<Arc<str>>) -> Result<Vec<Count>, Error> {
        let project = project.to_owned();
        self.core.observed("counts", Work::Read, move |session| Box::pin(async move { look::counts(session, &project, &own).await })).await
    }
}

#[async_trait]
impl<D: Dialect> Store for SqlStore<D> {
    async fn prepare(&self) -> Result<Prepared, Error> {
        let applied = migrate::prepare(&self.core, self.migrate).await?;
        D::settle(&self.core, self.migrate).await?;
        self.core
            .run_within(Work::Transaction, self.core.timeout.max(migrate::PATIENCE), move |session| {
                Box::pin(async move {
                    let default_project = migrate::default_project(session).await?;
                    let rows = session.rows_once(D::VERSION, &[]).await?;
                    let server = rows.first().and_then(|row| decode::maybe_text::<D>(row, 0)).unwrap_or_default();
                    Ok(Prepared { default_project, applied, server })
                })
            })
            .await
    }

    fn patience(&self) -> Duration {
        self.core.timeout
    }

    async fn insert(&self, insert: Insert) -> Result<Inserted, Error> {
        let work = if insert::is_single::<D>(&insert) { Work::Write } else { Work::Transaction };
        self.core.observed("insert", work, move |session| Box::pin(async move { insert::insert(session, &insert).await })).await
    }

    async fn upcoming(&self, upcoming: Upcoming) -> Result<Outlook, Error> {
        self.core.observed("upcoming", Work::Read, move |session| Box::pin(async move { claim::upcoming(session, &upcoming).await })).await
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed, Error> {
        self.core.observed("claim", Work::Transaction, move |session| Box::pin(async move { claim::claim(session, &claim).await })).await
    }

    async fn complete(&self, completions: Arc<Vec<Completion>>) -> Result<Vec<bool>, Error> {
        if completions.is_empty() {
            return Ok(Vec::new());
        }
        let work = complete::work(&completions);
        self.core.observed("complete", work, move |session| Box::pin(async move { complete::complete(session, &completions).await })).await
    }

    async fn locked(&self, ids: Vec<Uuid>) -> Result<Vec<Uuid>, Error> {
        if D::LOCK.is_empty() {
            return Ok(Vec::new());
        }
        self.core.observed("locked", Work::Transaction, move |session| Box::pin(async move { look::locked(session, ids).await })).await
    }

    async fn close_claims(&self, tokens: Vec<i64>) -> Result<(), Error> {
        if tokens.is_empty() {
            return Ok(());
        }
        self.core.observed("close_claims", Work::Write, move |session| Box::pin(async move { sheet::close(session, tokens).await })).await
    }

    async fn renew(&self, held: Vec<Held>, ttl: Duration) -> Result<Vec<Uuid>, Error> {
        self.core.observed("renew", Work::Transaction, move |session| Box::pin(async move { claim::renew(session, &held, ttl).await })).await
    }

    async fn release(&self, held: Vec<Held>) -> Result<u64, Error> {
        self.core.observed("release", Work::Transaction, move |session| Box::pin(async move { claim::release(session, &held).await })).await
    }

    async fn take_over(&self, take: TakeOver) -> Result<Vec<Lapsed>, Error> {
        let take = Arc::new(take);
        let whole = take.clone();
        let taken = self
            .core
            .observed("take_over", Work::Transaction, move |session| Box::pin(async move { lapsed::take_over(session, &whole).await }))
            .await;
        let place = || self.lapsed.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match taken {
            Ok(taken) => {
                *place() = lapsed::Place::default();
                return Ok(taken);
            }
            Err(refused @ Error::Refused(_)) => refused,
            Err(error) => return Err(error),
        };
        // One message that is refused must not keep the others from being taken over.
        let from = *place();
        let (taken, to) = self
            .core
            .observed("take_over", Work::Transaction, move |session| Box::pin(async move { lapsed::take_over_in_parts(session, &take, from).await }))
            .await?;
        *place() = to;
        if taken.is_empty() { Err(refused) } else { Ok(taken) }
    }

    async fn take_strays(&self, strays: Strays) -> Result<Taken, Error> {
        let strays = Arc::new(strays);
        let asked = strays.clone();
        if !self
            .core
            .observed("look_for_strays", Work::Read, move |session| Box::pin(async move { strays::are_there(session, &asked).await }))
            .await?
        {
            return Ok(Taken::default());
        }
        let (taken, refused) = self
            .core
            .observed("take_strays", Work::Transaction, move |session| Box::pin(async move { strays::take(session, &strays).await }))
            .await?;
        match refused {
            Some(error) if taken.strays.is_empty() && !taken.more => Err(error),
            _ => Ok(taken),
        }
    }

    async fn heartbeat(&self, beat: Heartbeat) -> Result<(), Error> {
        self.core.observed("heartbeat", Work::Write, move |session| Box::pin(async move { nodes::heartbeat(session, &beat).await })).await
    }

    async fn sign_off(&self, project: &str, node: &str) -> Result<(), Error> {
        let (project, node) = (project.to_owned(), node.to_owned());
        self.core.observed("sign_off", Work::Loose, move |session| Box::pin(async move { nodes::sign_off(session, &project, &node).await })).await
    }

    async fn forget_nodes(&self, project: &str) -> Result<(), Error> {
        let project = project.to_owned();
        self.core.observed("forget_nodes", Work::Loose, move |session| Box::pin(async move { nodes::forget(session, &project).await })).await
    }

    async fn unserved(&self, own: Served, min_age: Duration, limit: u32) -> Result<Vec<Unserved>, Error> {
        self.core.observed("unserved", Work::Read, move |session| Box::pin(async move { nodes::unserved(session, &own, min_age, limit).await })).await
    }

    async fn counts(&self, project: &str) -> Result<Vec<Count>, Error> {
        self.count(project, Vec::new()).await
    }

    async fn sample(&self, sample: Sample) -> Result<Option<Vec<Count>>, Error> {
        let Sample { project, sources, every, share } = sample;
        let asked = project.clone();
        // No count takes longer than a unit of work may.
        let longest = every.saturating_add(self.core.timeout.saturating_mul(share));
        let turn = self
            .core
            .observed("sample", Work::Loose, move |session| Box::pin(async move { sample::turn(session, &asked, every, longest).await }))
            .await?;
        if let Turn::Told(counts) = turn {
            return Ok(counts);
        }
        let began = Instant::now();
        let counts = self.count(&project, sources).await;
        let (found, rest) = (counts.as_ref().ok().cloned(), began.elapsed().saturating_mul(share));
        let told = self
            .core
            .observed("sample_tell", Work::Write, move |session| Box::pin(async move { sample::tell(session, &project, found, rest).await }))
            .await;
        let counts = counts?;
        told.map(|()| Some(counts))
    }

    async fn get(&self, project: &str, id: Uuid, payload: bool) -> Result<Option<Record>, Error> {
        self.show(project, Id::Known(id), payload).await
    }

    async fn list(&self, list: List) -> Result<Page, Error> {
        let (project, payload) = (list.project.clone(), list.payload);
        let (rows, next) = self.core.look("list", move |session| Box::pin(async move { look::list(session, &list).await })).await?;
        if !payload {
            return Ok(Page { items: rows.into_iter().map(|(_, record)| record).collect(), next });
        }
        // One by one: a full page of the largest payloads would not fit in memory.
        let (mut page, mut weight, mut last) = (Page { items: Vec::with_capacity(rows.len()), next }, 0, None);
        for (id, _) in rows {
            if weight >= MAX_PAGE_BYTES {
                page.next = last;
                break;
            }
            last = Some(id.clone());
            // What was purged in the meantime is left out.
            if let Some(record) = self.show(&project, id, true).await? {
                weight += record.payload.as_ref().map_or(0, Bytes::len);
                page.items.push(record);
            }
        }
        Ok(page)
    }

    async fn attempts(&self, project: &str, id: Uuid) -> Result<Option<Vec<Attempt>>, Error> {
        let project = project.to_owned();
        self.core.look("attempts", move |session| Box::pin(async move { look::attempts(session, &project, id).await })).await
    }

    async fn retry(&self, project: &str, ids: Vec<Uuid>) -> Result<Vec<Changed>, Error> {
        let project = project.to_owned();
        self.core.observed("retry", Work::Transaction, move |session| Box::pin(async move { act::retry(session, &project, &ids).await })).await
    }

    async fn cancel(&self, project: &str, ids: Vec<Uuid>) -> Result<Vec<Changed>, Error> {
        let project = project.to_owned();
        self.core.observed("cancel", Work::Transaction, move |session| Box::pin(async move { act::cancel(session, &project, &ids).await })).await
    }

    async fn replace_payload(&self, project: &str, id: Uuid, payload: Bytes) -> Result<Changed, Error> {
        let project = project.to_owned();
        self.core
            .observed("replace_payload", Work::Transaction, move |session| {
                Box::pin(async move { act::replace_payload(session, &project, id, &payload).await })
            })
            .await
    }

    async fn purge(&self, purge: Purge) -> Result<Purged, Error> {
        self.core.observed("purge", Work::Transaction, move |session| Box::pin(async move { purge::purge(session, &purge).await })).await
    }

    async fn sweep(&self, sweep: Sweep) -> Result<Swept, Error> {
        let project = sweep.project.clone();
        let found = self
            .core
            .observed("look_for_leftovers", Work::Read, move |session| Box::pin(async move { leftovers::look(session, &sweep).await }))
            .await?;
        if let Some(nothing) = found.nothing() {
            return Ok(nothing);
        }
        self.core
            .observed("sweep", Work::Transaction, move |session| Box::pin(async move { leftovers::take_away(session, &project, found).await }))
            .await
    }

    async fn listen(&self, project: &str, wake: Arc<Notify>) {
        // Rows of other projects wake the poller too: one hint too many does no harm.
        let _ = project;
        D::listen(self.core.clone(), wake).await;
    }

    async fn close(&self) {
        self.core.close().await;
    }
}
