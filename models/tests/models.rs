//! Each model by many schedules.

macro_rules! models {
    ($($module:ident: $($model:ident)*;)*) => {
        $(mod $module {
            $(#[test]
            fn $model() {
                isopod_models::check(isopod_models::$module::$model);
            })*
        })*
    };
}

models! {
    line:
        a_seat_goes_round
        seats_of_functions_tenants_and_the_host
        others_pass_who_gives_up
        a_line_has_its_bound
        the_displaced_are_told;
    turns:
        turns_go_round
        a_turn_that_nobody_takes_lapses;
    stock:
        a_stock_is_filled_again
        callers_fill_the_stock
        a_stock_is_filled_beside_calls
        one_fills_at_a_time
        slots_are_scarce
        what_is_spare_is_given_once
        what_waits_gives_way
        a_stock_shrinks_beside_calls
        kept_instances_stay_with_their_tenant
        a_stock_that_is_outrun_is_filled_later
        a_host_that_ends_keeps_nothing;
}
