//! The conformance suite of the store on real servers: one line a back end.

mod certificates;

mod postgres {
    crate::store::conformance!(Postgres);
    mod server {
        crate::store::conformance_of_a_server!(Postgres);
    }
    mod of_its_kind {
        crate::store::suite! { Postgres;
            settings: an_application_that_may_only_insert_tells_of_it a_node_that_does_not_listen_leaves_the_trigger_to_those_who_do
                messages_are_found_by_an_index_however_few_there_were
                what_a_person_decides_is_found_by_its_key_however_many_failed keys_are_found_one_by_one_however_few_there_were;
        }
    }
}

mod postgres18 {
    crate::store::conformance!(Postgres18);
    mod server {
        crate::store::conformance_of_a_server!(Postgres18);
    }
    mod of_its_kind {
        crate::store::suite! { Postgres18;
            settings: an_application_that_may_only_insert_tells_of_it a_node_that_does_not_listen_leaves_the_trigger_to_those_who_do
                messages_are_found_by_an_index_however_few_there_were
                what_a_person_decides_is_found_by_its_key_however_many_failed keys_are_found_one_by_one_however_few_there_were;
        }
    }
}

/// In transaction mode, where no statement is prepared for long.
mod pgbouncer {
    crate::store::conformance!(Pgbouncer);
    mod server {
        crate::store::conformance_of_a_server!(Pgbouncer);
    }
    mod of_its_kind {
        crate::store::suite! { Pgbouncer;
            settings: a_node_that_does_not_listen_leaves_the_trigger_to_those_who_do messages_are_found_by_an_index_however_few_there_were
                a_pooler_that_keeps_sessions_needs_nothing;
        }
    }
}

mod mariadb {
    crate::store::conformance!(Mariadb);
    mod server {
        crate::store::conformance_of_a_server!(Mariadb);
    }
    mod of_its_kind {
        crate::store::suite! {
            Mariadb; prepare: once_by_several_nodes_at_once_where_no_lock_is_given tables_that_take_capitals_for_small_letters_are_refused;
        }
    }
}

mod mysql {
    crate::store::conformance!(Mysql);
    mod server {
        crate::store::conformance_of_a_server!(Mysql);
    }
    mod of_its_kind {
        crate::store::suite! { Mysql; prepare: once_by_several_nodes_at_once_where_no_lock_is_given; }
    }
}
