//! Statement parameters: single values, or rows of values in one parameter.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Address, Id};

/// A value to bind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Int(i64),
    Text(&'a str),
    MaybeText(Option<&'a str>),
    MaybeBytes(Option<&'a [u8]>),
    Id(Uuid),
    /// As read by [`Dialect::tie`](super::dialect::Dialect::tie).
    Tie(u128),
    /// A list in a single column.
    Ids(&'a [Uuid]),
    Time(Option<DateTime<Utc>>),
    Batch(&'a Batch<'a>),
}

impl<'a> From<&'a Id> for Value<'a> {
    fn from(id: &'a Id) -> Self {
        match id {
            Id::Known(id) => Self::Id(*id),
            Id::Text(text) => Self::Text(text),
            Id::Bytes(bytes) | Id::Raw(bytes) => Self::MaybeBytes(Some(bytes)),
        }
    }
}

/// The type of a batch's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Id,
    Int,
    Text,
    Bytes,
    Time,
}

/// A column of a batch.
#[derive(Debug)]
pub(super) enum Column<'a> {
    Ids(Vec<Uuid>),
    Ints(Vec<Option<i64>>),
    Texts(Vec<Option<&'a str>>),
    Bytes(Vec<Option<&'a [u8]>>),
    Times(Vec<Option<DateTime<Utc>>>),
    Addresses(Vec<Address>),
}

/// Rows that are passed to the database in one parameter (or one per column), so that one statement serves any number of them.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) rows: usize,
    pub(super) columns: Vec<Column<'a>>,
}

impl<'a> Batch<'a> {
    /// A batch of these columns, which must have the same length.
    pub(super) fn new(rows: usize, columns: Vec<Column<'a>>) -> Self {
        Self { rows, columns }
    }

    /// A batch with a single column.
    pub(super) fn ids(ids: impl IntoIterator<Item = Uuid>) -> Self {
        let ids: Vec<_> = ids.into_iter().collect();
        Self { rows: ids.len(), columns: vec![Column::Ids(ids)] }
    }

    /// A batch with a single column.
    pub(super) fn ints(ints: impl IntoIterator<Item = i64>) -> Self {
        let ints: Vec<_> = ints.into_iter().map(Some).collect();
        Self { rows: ints.len(), columns: vec![Column::Ints(ints)] }
    }

    /// A batch with a single column.
    pub(super) fn texts(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let texts: Vec<_> = texts.into_iter().map(Some).collect();
        Self { rows: texts.len(), columns: vec![Column::Texts(texts)] }
    }

    /// The ids in its first column, if that is a column of ids.
    pub(super) fn named(&self) -> Vec<Uuid> {
        match self.columns.first() {
            Some(Column::Ids(ids)) => ids.clone(),
            _ => Vec::new(),
        }
    }

    /// The batch as a JSON array of arrays, for databases without array parameters.
    pub(super) fn to_json(&self, time: impl Fn(DateTime<Utc>) -> serde_json::Value) -> String {
        use serde_json::Value as Json;
        use std::fmt::Write;
        let mut out = String::with_capacity(self.rows * self.columns.len() * 24 + 2);
        out.push('[');
        for row in 0..self.rows {
            out.push_str(if row == 0 { "[" } else { ",[" });
            for (index, column) in self.columns.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                // Writing to a string can't fail.
                let _ = match column {
                    Column::Ids(ids) => ids.get(row).map_or(Ok(()), |id| write!(out, "\"{}\"", id.as_hyphenated())),
                    Column::Ints(ints) => match ints.get(row).copied().flatten() {
                        Some(int) => write!(out, "{int}"),
                        None => write!(out, "null"),
                    },
                    Column::Texts(texts) => match texts.get(row).copied().flatten() {
                        Some(text) => write!(out, "{}", Json::from(text)),
                        None => write!(out, "null"),
                    },
                    // Only databases with array parameters are given columns of these types.
                    Column::Bytes(_) | Column::Addresses(_) => write!(out, "null"),
                    Column::Times(times) => match times.get(row).copied().flatten() {
                        Some(at) => write!(out, "{}", time(at)),
                        None => write!(out, "null"),
                    },
                };
            }
            out.push(']');
        }
        out.push(']');
        out
    }
}
