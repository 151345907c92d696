//! Taking over messages whose lease ran out.

use super::claim::mend;
use super::decode;
use super::dialect::{Batch, Dialect, Value};
use super::insert::micros;
use super::part::{self, Parts};
use super::pool::{Fail, Session};
use super::shape::Picked;
use super::sheet;
use crate::store::{Lapsed, TakeOver};

/// The row keeps the node's name: it is the one that lost the attempt.
const TAKE_OVER: Picked = Picked {
    names: ["take_over", "take_over_pick"],
    from: "FROM {log} WHERE project = ? AND state = 'sending'
        AND (lease_until <= {now} OR lease_until IS NULL) AND source IN (SELECT s_source FROM {table s s_source:text})
        AND id NOT IN (SELECT {once} coalesce(b_id, '00000000-0000-0000-0000-000000000000') FROM {table b b_id:id}) ORDER BY lease_until LIMIT ? OFFSET ?",
    set: "lease_token = ?, lease_until = {plus {now}|?}, updated_at = {now}",
    columns: decode::LAPSED,
};

/// Takes over everything in one go, or nothing.
pub(super) async fn take_over<D: Dialect>(session: &mut Session<D>, take: &TakeOver) -> Result<Vec<Lapsed>, Fail> {
    if take.sources.is_empty() {
        return Ok(Vec::new());
    }
    sheet::write_out_lapsed(session, &take.project, 0, take.limit, None).await?;
    next(session, take, take.limit, 0).await
}

/// Where a take-over in parts stopped, so that the next one continues there instead of going through everything that the database refuses again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// The last sheet that was looked at.
    sheet: i64,
    /// The first this many rows in the order in which they lapsed are refused.
    passed: u32,
}

/// Takes over whatever the database does not refuse, which is slower; also returns where it stopped.
pub(super) async fn take_over_in_parts<D: Dialect>(
    session: &mut Session<D>,
    take: &TakeOver,
    Place { sheet, mut passed }: Place,
) -> Result<(Vec<Lapsed>, Place), Fail> {
    let mut sheets = Parts::within(session.core.timeout);
    let sheet = sheet::write_out_lapsed(session, &take.project, sheet, take.limit, Some(&mut sheets)).await?;
    let mut parts = Parts::within(session.core.timeout);
    // A take-over that continues was in the middle of refused rows.
    let (mut taken, mut count) = (Vec::new(), if passed == 0 { take.limit } else { take.limit.min(1) });
    while count > 0 && !parts.are_over() {
        part::begin(session).await?;
        let done = next(session, take, count, passed).await;
        match parts.end(session, done).await? {
            Some(some) => {
                let is_last = some.len() < count as usize;
                taken.extend(some);
                if is_last {
                    passed = 0;
                    break;
                }
                count = count.saturating_mul(2).min(take.limit.saturating_sub(u32::try_from(taken.len()).unwrap_or(u32::MAX)));
            }
            // Refused on its own: it blocks those that lapsed later.
            None if count == 1 => passed += 1,
            None => count /= 2,
        }
    }
    Ok((taken, Place { sheet, passed }))
}

/// Takes over at most `count` messages, skipping the `passed` that lapsed first.
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
