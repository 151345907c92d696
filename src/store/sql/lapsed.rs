//! Taking over what was lost: messages whose lease ran out.

use super::claim::mend;
use super::decode;
use super::dialect::{Batch, Dialect, Value};
use super::insert::micros;
use super::part::{self, Parts};
use super::pool::{Fail, Session};
use super::shape::Picked;
use super::sheet;
use crate::store::{Lapsed, TakeOver};

/// The node stays as it is: it is the one that lost the attempt.
const TAKE_OVER: Picked = Picked {
    names: ["take_over", "take_over_pick"],
    from: "FROM {log} WHERE project = ? AND state = 'sending'
        AND (lease_until <= {now} OR lease_until IS NULL) AND source IN (SELECT s_source FROM {table s s_source:text})
        AND id NOT IN (SELECT b_id FROM {table b b_id:id}) ORDER BY lease_until LIMIT ? OFFSET ?",
    set: "lease_token = ?, lease_until = {plus {now}|?}, updated_at = {now}",
    columns: decode::LAPSED,
};

/// Takes over all at once, or nothing.
pub(super) async fn take_over<D: Dialect>(session: &mut Session<D>, take: &TakeOver) -> Result<Vec<Lapsed>, Fail> {
    if take.sources.is_empty() {
        return Ok(Vec::new());
    }
    sheet::write_out_lapsed(session, &take.project, None).await?;
    next(session, take, take.limit, 0).await
}

/// Takes over what the database does not refuse, which takes longer. If it refuses all that there is, it is that which is answered.
pub(super) async fn take_over_in_parts<D: Dialect>(session: &mut Session<D>, take: &TakeOver) -> Result<Vec<Lapsed>, Fail> {
    let mut sheets = Parts::within(session.core.timeout);
    sheet::write_out_lapsed(session, &take.project, Some(&mut sheets)).await?;
    let mut parts = Parts::within(session.core.timeout);
    let (mut taken, mut passed, mut count) = (Vec::new(), 0, take.limit);
    while count > 0 && !parts.are_over() {
        part::begin(session).await?;
        let done = next(session, take, count, passed).await;
        match parts.end(session, done).await? {
            Some(some) => {
                let is_last = some.len() < count as usize;
                taken.extend(some);
                if is_last {
                    break;
                }
                count = count.saturating_mul(2).min(take.limit.saturating_sub(u32::try_from(taken.len()).unwrap_or(u32::MAX)));
            }
            // By itself: it is in the way of those that lapsed later.
            None if count == 1 => passed += 1,
            None => count /= 2,
        }
    }
    match parts.refused().or(sheets.refused()) {
        Some(error) if taken.is_empty() => Err(error.into()),
        _ => Ok(taken),
    }
}

/// Takes over so many at the most, behind so many that lapsed before them.
async fn next<D: Dialect>(session: &mut Session<D>, take: &TakeOver, count: u32, passed: u32) -> Result<Vec<Lapsed>, Fail> {
    let sources = Batch::texts(take.sources.iter().map(|source| &**source));
    let except = Batch::ids(take.except.iter().copied());
    let lapsed = [Value::Text(&take.project), Value::Batch(&sources), Value::Batch(&except), Value::Int(count.into()), Value::Int(passed.into())];
    let rows = TAKE_OVER.run(session, &lapsed, &[Value::Int(take.lease.token), Value::Int(micros(take.lease.ttl))]).await?;
    let mut taken = Vec::with_capacity(rows.len());
    for row in &rows {
        let (id, _) = mend(session, D::id(row, 0)).await?;
        taken.push(decode::lapsed::<D>(row, id));
    }
    Ok(taken)
}
