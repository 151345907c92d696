//! The conformance suite of the store on real servers: one line a back end.

mod certificates;

mod postgres {
    crate::store::conformance!(Postgres);
    mod server {
        crate::store::conformance_of_a_server!(Postgres);
    }
}

mod postgres18 {
    crate::store::conformance!(Postgres18);
    mod server {
        crate::store::conformance_of_a_server!(Postgres18);
    }
}

/// In transaction mode, where no statement is prepared for long.
mod pgbouncer {
    crate::store::conformance!(Pgbouncer);
    mod server {
        crate::store::conformance_of_a_server!(Pgbouncer);
    }
}

mod mariadb {
    crate::store::conformance!(Mariadb);
    mod server {
        crate::store::conformance_of_a_server!(Mariadb);
    }
}

mod mysql {
    crate::store::conformance!(Mysql);
    mod server {
        crate::store::conformance_of_a_server!(Mysql);
    }
}
