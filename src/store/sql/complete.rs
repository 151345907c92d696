//! Writing the outcomes of attempts: success, any other outcome, deletion, each of them one statement for a whole batch.

use std::collections::HashSet;

use uuid::Uuid;

use super::claim::rounds;
use super::dialect::{Batch, Column, Dialect, Value};
use super::insert::micros;
use super::pool::{Fail, Session, Work};
use super::shape::{HELD, Matched};
use super::sheet;
use crate::message::State;
use crate::message::judge::Log;
use crate::store::Completion;

/// Whether a completion is a plain success, with nothing to write to the attempt log.
fn is_plain(completion: &Completion) -> bool {
    completion.begun && completion.state == State::Succeeded && completion.log == Log::Own && completion.error.is_none()
}

/// Whether a message may have entries in the attempt log.
fn may_be_logged(completion: &Completion) -> bool {
    completion.epoch > 1 || completion.attempt > 1
}

/// The kind of work that a batch needs: a single statement if all its completions have the same shape and none writes to the log.
pub(super) fn work(completions: &[Completion]) -> Work {
    let deletes = completions.iter().filter(|completion| completion.delete).count();
    let plain = completions.iter().filter(|completion| !completion.delete && is_plain(completion)).count();
    // A message that occurs twice makes two rounds, each of which could be single on its own.
    let single = plain == completions.len()
        || (deletes == completions.len() && completions.iter().all(|completion| completion.begun && !may_be_logged(completion)));
    // Completions with a known address and the others are written by separate statements.
    let addressed = completions.iter().filter(|completion| completion.address.is_some()).count();
    let single = single && (addressed == 0 || addressed == completions.len());
    if single { Work::Write } else { Work::Transaction }
}

/// A plain success. The row's log stays as it is: it tells of earlier attempts, if there were any. The attempt's number is already on the row unless a sheet held the message, which is checked before the state changes.
const SUCCESS: Matched = Matched {
    names: ["succeed", "succeed_lock"],
    columns: "b_id:id b_token:int b_epoch:int b_attempt:int b_started:time b_ms:int b_node:text b_result:text",
    set: "attempts = CASE WHEN state = 'sending' THEN attempts ELSE b_attempt END, state = 'succeeded', finished_at = {now}, updated_at = {now},
        lease_token = 0, lease_until = NULL, lease_node = b_node, attempt_started_at = b_started, attempt_ms = b_ms, result = b_result,
        error_class = NULL, error_code = NULL, error_detail = NULL",
    condition: "{held}",
};

/// Anything else. `attempts` is set first here too: MySQL sees the values that it has just assigned.
const OUTCOME: Matched = Matched {
    names: ["outcome", "outcome_lock"],
    columns: "b_id:id b_token:int b_begun:int b_state:text b_delay:int b_retries:int b_expires:time b_started:time b_ms:int b_node:text b_result:text
        b_class:text b_code:text b_detail:text b_logged:int b_number:int b_outcome:text",
    set: "attempts = CASE WHEN b_begun = 0 AND attempt_started_at IS NOT NULL AND attempts > 0 THEN attempts - 1 ELSE attempts END,
        log_count = CASE WHEN b_logged = 1 AND log_count BETWEEN 0 AND 1000000 THEN log_count + 1 ELSE log_count END,
        log_tail = CASE WHEN b_logged > 0 THEN b_number ELSE log_tail END,
        log_tail_outcome = CASE WHEN b_logged > 0 THEN b_outcome ELSE log_tail_outcome END,
        due_at = CASE WHEN b_state = 'retrying' THEN {plus {now}|b_delay} ELSE due_at END,
        finished_at = CASE WHEN b_state = 'retrying' THEN NULL ELSE {now} END,
        state = b_state, retries = b_retries, expires_at = b_expires, updated_at = {now}, lease_token = 0, lease_until = NULL,
        lease_node = b_node, attempt_started_at = CASE WHEN b_begun = 1 THEN b_started END, attempt_ms = CASE WHEN b_begun = 1 THEN b_ms END,
        error_class = b_class, error_code = b_code, error_detail = b_detail, result = b_result",
    condition: HELD,
};

pub(super) async fn complete<D: Dialect>(session: &mut Session<D>, completions: &[Completion]) -> Result<Vec<bool>, Fail> {
    let mut answers = vec![false; completions.len()];
    for round in rounds(completions.iter().enumerate(), |(_, completion)| completion.held.id) {
        let ours = write(session, &round.iter().map(|(_, completion)| *completion).collect::<Vec<_>>()).await?;
        // Nearly always it is all of them.
        let some = (ours.len() < round.len()).then(|| ours.into_iter().collect::<HashSet<_>>());
        for (index, completion) in round {
            if let Some(answer) = answers.get_mut(index) {
                *answer = some.as_ref().is_none_or(|ours| ours.contains(&completion.held.id));
            }
        }
    }
    Ok(answers)
}

/// Writes the outcomes, at most one for each message; returns the messages that were ours.
async fn write<D: Dialect>(session: &mut Session<D>, batch: &[&Completion]) -> Result<Vec<Uuid>, Fail> {
    let (deletes, kept): (Vec<_>, Vec<_>) = batch.iter().copied().partition(|completion| completion.delete);
    let (plain, others): (Vec<_>, Vec<_>) = kept.into_iter().partition(|completion| is_plain(completion));
    let mut ours = Vec::new();
    // An attempt that was not begun may have a nonsensical number, by which the sheet that holds it can't be found. Sheets are locked before rows,
    // here as everywhere.
    let written_out: Vec<_> = others.iter().chain(deletes.iter().filter(|completion| !completion.begun)).map(|completion| completion.held).collect();
    if !written_out.is_empty() {
        sheet::write_out(session, &written_out).await?;
    }
    if !deletes.is_empty() {
        ours.extend(delete(session, &deletes).await?);
    }
    if !plain.is_empty() {
        ours.extend(change_held(session, &plain, successes, &SUCCESS, "succeed_there").await?);
    }
    if !others.is_empty() {
        let changed: HashSet<Uuid> = OUTCOME.run(session, &outcomes(&others), &[]).await?.into_iter().collect();
        let logged: Vec<_> =
            others.into_iter().filter(|completion| changed.contains(&completion.held.id) && completion.begun && completion.log != Log::Own).collect();
        if !logged.is_empty() {
            log(session, &logged).await?;
        }
        ours.extend(changed);
    }
    Ok(ours)
}

/// Changes rows that are held: first, by the statement `there`, those with a known address, then by id whatever is no longer there. Returns the ids
/// of the rows that it changed. Rows seldom move, so these may well be written separately.
async fn change_held<'a, D: Dialect>(
    session: &mut Session<D>,
    batch: &[&'a Completion],
    columns: impl Fn(&[&'a Completion]) -> Vec<Column<'a>>,
    change: &Matched<'_>,
    there: &'static str,
) -> Result<Vec<Uuid>, Fail> {
    let (known, mut others): (Vec<_>, Vec<_>) = batch.iter().copied().partition(|completion| completion.address.is_some());
    let mut ours = Vec::new();
    if !known.is_empty() {
        let mut values = columns(&known);
        values.push(Column::Addresses(known.iter().filter_map(|completion| completion.address).collect()));
        let columns = format!("{} b_there:int", change.columns);
        let change = Matched { names: [there, change.names[1]], columns: &columns, condition: "{held} AND l.{address} = b_there", ..*change };
        ours = run_held(session, &change, &known, values).await?;
        if ours.len() < known.len() {
            let found: HashSet<_> = ours.iter().collect();
            others.extend(known.into_iter().filter(|completion| !found.contains(&completion.held.id)));
            // In the order of the ids, as in every statement.
            others.sort_unstable_by_key(|completion| completion.held.id);
        }
    }
    if !others.is_empty() {
        ours.extend(run_held(session, change, &others, columns(&others)).await?);
    }
    Ok(ours)
}

/// Runs a change whose condition begins with `{held}`, after reading what that needs; returns the ids of the rows that it changed.
async fn run_held<D: Dialect>(
    session: &mut Session<D>,
    change: &Matched<'_>,
    batch: &[&Completion],
    mut columns: Vec<Column<'_>>,
) -> Result<Vec<Uuid>, Fail> {
    let tokens = sheet::tokens(batch.iter().map(|completion| &completion.held));
    if D::RETURNING {
        return change.run_if(session, &Batch::new(batch.len(), columns), &[], &[Value::Batch(&tokens)]).await;
    }
    let named = sheet::named(session, &tokens).await?;
    columns.push(ints(batch, |completion| i64::from(named.contains(&completion.held))));
    let change = Matched { columns: &format!("{} b_listed:int", change.columns), ..*change };
    change.run(session, &Batch::new(batch.len(), columns), &[]).await
}

fn ids(completions: &[&Completion]) -> Column<'static> {
    Column::Ids(completions.iter().map(|completion| completion.held.id).collect())
}

fn tokens(completions: &[&Completion]) -> Column<'static> {
    Column::Ints(completions.iter().map(|completion| Some(completion.held.token)).collect())
}

fn ints(completions: &[&Completion], of: impl Fn(&Completion) -> i64) -> Column<'static> {
    Column::Ints(completions.iter().map(|completion| Some(of(completion))).collect())
}

fn texts<'a>(completions: &[&'a Completion], of: impl Fn(&'a Completion) -> Option<&'a str>) -> Column<'a> {
    Column::Texts(completions.iter().map(|completion| of(completion)).collect())
}

fn started(completions: &[&Completion]) -> Column<'static> {
    Column::Times(completions.iter().map(|completion| Some(completion.started_at)).collect())
}

fn millis(completion: &Completion) -> i64 {
    micros(completion.duration) / 1000
}

fn attempts<'a>(batch: &[&'a Completion]) -> Vec<Column<'a>> {
    vec![ids(batch), tokens(batch), ints(batch, |it| i64::from(it.epoch)), ints(batch, |it| i64::from(it.attempt))]
}

fn successes<'a>(batch: &[&'a Completion]) -> Vec<Column<'a>> {
    let mut columns = attempts(batch);
    columns.extend([started(batch), ints(batch, millis), texts(batch, |it| Some(&it.node)), texts(batch, |it| it.result.as_deref())]);
    columns
}

/// The number of the log entry for an attempt, and whether that entry is new (1), an existing one (2), or not written (0).
fn entry(completion: &Completion) -> (i64, i64) {
    match completion.log {
        _ if !completion.begun => (0, 0),
        Log::Own => (0, 0),
        Log::Insert => (i64::from(completion.attempt), 1),
        Log::Extend(number) => (i64::from(number), 2),
    }
}

fn outcomes<'a>(batch: &[&'a Completion]) -> Batch<'a> {
    let columns = vec![
        ids(batch),
        tokens(batch),
        ints(batch, |it| i64::from(it.begun)),
        texts(batch, |it| Some(it.state.as_str())),
        ints(batch, |it| micros(it.delay)),
        ints(batch, |it| i64::from(it.retries)),
        Column::Times(batch.iter().map(|it| it.expires_at).collect()),
        started(batch),
        ints(batch, millis),
        texts(batch, |it| Some(&it.node)),
        texts(batch, |it| it.result.as_deref()),
        texts(batch, |it| it.error.as_ref().map(|error| error.class.as_str())),
        texts(batch, |it| it.error.as_ref().map(|error| error.code.as_str())),
        texts(batch, |it| it.error.as_ref().map(|error| error.detail.as_str())),
        ints(batch, |it| entry(it).1),
        ints(batch, |it| entry(it).0),
        texts(batch, |it| Some(it.outcome.as_str())),
    ];
    Batch::new(batch.len(), columns)
}

/// Writes to the attempt log the attempts whose messages were ours: each as a new entry, or counted into an existing one.
async fn log<D: Dialect>(session: &mut Session<D>, batch: &[&Completion]) -> Result<(), Fail> {
    let columns = vec![
        ids(batch),
        ints(batch, |it| i64::from(it.epoch)),
        ints(batch, |it| entry(it).0),
        texts(batch, |it| Some(&it.node)),
        started(batch),
        ints(batch, millis),
        texts(batch, |it| Some(it.outcome.as_str())),
        texts(batch, |it| it.error.as_ref().map(|error| error.class.as_str())),
        texts(batch, |it| it.error.as_ref().map(|error| error.code.as_str())),
        texts(batch, |it| it.error.as_ref().map(|error| error.detail.as_str())),
        texts(batch, |it| it.result.as_deref()),
    ];
    let sql = session.sql("log", || {
        let new = |column: &'static str| (column, D::proposed(column));
        let assignments = [
            ("attempts", format!("{} + 1", D::present("attempt", "attempts"))),
            ("last_at", D::proposed("started_at")),
            new("node"),
            new("duration_ms"),
            new("outcome"),
            new("error_class"),
            new("error_code"),
            new("error_detail"),
            new("result"),
        ];
        format!(
            "INSERT INTO {{attempt}} {} (message_id, epoch, number, project, attempts, node, started_at, duration_ms, outcome,
                error_class, error_code, error_detail, result)
             SELECT b_id, b_epoch, b_number, l.project, 1, b_node, b_started, b_ms, b_outcome, b_class, b_code, b_detail, b_result
             FROM {{table b b_id:id b_epoch:int b_number:int b_node:text b_started:time b_ms:int b_outcome:text b_class:text b_code:text b_detail:text
                 b_result:text}} {{join}} {{log}} l {{by-key}} ON l.id = b_id WHERE 1 = 1 {}",
            D::AS_OLD,
            D::upsert("message_id, epoch, number", &assignments)
        )
    });
    session.execute(sql, &[Value::Batch(&Batch::new(batch.len(), columns))]).await?;
    Ok(())
}

/// Deletes a message whose history is not kept.
const DELETE: Matched =
    Matched { names: ["delete", "delete_lock"], columns: "b_id:id b_token:int b_epoch:int b_attempt:int", set: "", condition: "{held}" };

/// Deletes messages whose history is not kept, and their attempts.
async fn delete<D: Dialect>(session: &mut Session<D>, batch: &[&Completion]) -> Result<Vec<Uuid>, Fail> {
    let gone = change_held(session, batch, attempts, &DELETE, "delete_there").await?;
    let there: HashSet<_> = gone.iter().copied().collect();
    let logged: Vec<_> = batch
        .iter()
        .filter(|completion| may_be_logged(completion) && there.contains(&completion.held.id))
        .map(|completion| completion.held.id)
        .collect();
    if !logged.is_empty() {
        forget_attempts(session, logged).await?;
    }
    Ok(gone)
}

/// Deletes the attempts of messages that are gone.
pub(super) async fn forget_attempts<D: Dialect>(session: &mut Session<D>, messages: Vec<Uuid>) -> Result<(), Fail> {
    let sql = session.sql("forget_attempts", || {
        if D::JOINED {
            "DELETE a FROM {table b b_id:id} {join} {attempt} a {by-key} ON a.message_id = b.b_id".to_owned()
        } else {
            "DELETE FROM {attempt} WHERE message_id {in SELECT b_id FROM {table b b_id:id}}".to_owned()
        }
    });
    session.execute(sql, &[Value::Batch(&Batch::ids(messages))]).await?;
    Ok(())
}
