//! What the tests share.

pub(crate) mod endpoint;
pub(crate) mod sends;

/// The value of a variable that `scripts/services env` prints.
pub(crate) fn service(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `scripts/services up` and `eval \"$(scripts/services env)\"`"))
}
