use super::*;
use crate::gpus::fake::Fake;
use prometheus::Opts;
use prometheus::proto::{Metric, MetricFamily};

const CARDS: &str = "card H100,81920,50000,30000,37\n";
const MB: u64 = 1 << 20;
/// Longer than any answer takes on any machine.
const BOUND: Duration = Duration::from_secs(20);
/// Long enough that an answer could come, if there were one.
const MOMENT: Duration = Duration::from_millis(50);

fn driver(fake: &Fake) -> Driver {
    Driver::new(fake.libraries().into())
}

fn numbers(answer: &Answer) -> Vec<&str> {
    answer.iter().flatten().map(|usage| usage.gpu.as_str()).collect()
}

const fn seconds(seconds: u64) -> Moment {
    Moment::from_secs(seconds)
}

#[tokio::test]
async fn each_card_and_each_slice_is_told() {
    let fake = Fake::with(
        "card H100,81920,50000,30000,37\n\
         card A100,40960,40000,100,!3\n\
         slice MIG 3g.20gb,20096,20000,50,!3\nhole\nslice MIG 1g.5gb,4864,4000,800,!3\n",
    );
    let told = Gauges::new(fake.libraries()).sample(BOUND).await.unwrap();
    let whole = Usage {
        gpu: "0".to_owned(),
        name: "H100".to_owned(),
        total_bytes: 81_920 * MB,
        used_bytes: 30_000 * MB,
        free_bytes: 50_000 * MB,
        utilization: Some(0.37),
    };
    assert_eq!(told[0], whole);
    let slices: Vec<_> = told[1..].iter().map(|it| (it.gpu.as_str(), it.used_bytes)).collect();
    assert_eq!(slices, [("1/0", 50 * MB), ("1/2", 800 * MB)]);
    assert_eq!(told[1].utilization, None);
}

#[tokio::test]
async fn the_library_is_opened_by_the_first_question_and_stays_open() {
    let fake = Fake::with(CARDS);
    let gauges = Gauges::new(fake.libraries());
    assert_eq!(fake.calls("init"), 0);
    for _ in 0..3 {
        assert!(gauges.clone().sample(BOUND).await.is_some());
    }
    assert_eq!((fake.calls("init"), fake.calls("count")), (1, 3));
    fake.say("card H100,81920,1000,79000,100\n");
    assert_eq!(gauges.sample(BOUND).await.unwrap()[0].used_bytes, 79_000 * MB);
}

#[tokio::test]
async fn a_driver_that_hangs_holds_nobody_and_questions_do_not_pile_up() {
    let fake = Fake::with(&format!("hang\n{CARDS}"));
    let gauges = Gauges::new(fake.libraries());
    for _ in 0..5 {
        assert_eq!(gauges.sample(MOMENT).await, None);
    }
    // It joins the question of before, whose answer comes now.
    let freed = async { fake.say(CARDS) };
    let (late, ()) = tokio::join!(biased; gauges.sample(BOUND), freed);
    assert_eq!(numbers(&late), ["0"]);
    assert_eq!(fake.calls("count"), 1);
    // The same while the library is open.
    fake.say(&format!("hang\n{CARDS}"));
    let both = tokio::join!(gauges.sample(MOMENT), gauges.sample(MOMENT));
    assert_eq!(both, (None, None));
    let freed = async { fake.say(CARDS) };
    let all = tokio::join!(biased; gauges.sample(BOUND), gauges.sample(BOUND), freed);
    assert!(all.0.is_some() && all.0 == all.1);
    assert_eq!((fake.calls("init"), fake.calls("count")), (1, 2));
}

#[tokio::test]
async fn the_thread_ends_with_the_last_who_may_ask() {
    let fake = Fake::with(CARDS);
    let gauges = Gauges::new(fake.libraries());
    assert!(gauges.sample(BOUND).await.is_some());
    let mut board = gauges.board.answers.subscribe();
    drop(gauges);
    // The thread holds the other end.
    let ends = async { while board.changed().await.is_ok() {} };
    tokio::time::timeout(BOUND, ends).await.unwrap();
}

#[tokio::test]
async fn a_thread_that_died_is_replaced_and_the_question_it_had_is_answered() {
    let fake = Fake::with(CARDS);
    let gauges = Gauges::new(fake.libraries());
    let (dead, _) = mpsc::channel();
    *lock(&gauges.thread) = Some(dead);
    assert_eq!(numbers(&gauges.sample(BOUND).await), ["0"]);
    // What unwinding does.
    *lock(&gauges.board.asked) = true;
    let died = async { drop(Question { board: &gauges.board, answer: None }) };
    let (answer, ()) = tokio::join!(biased; gauges.sample(BOUND), died);
    assert_eq!(answer, None);
    assert_eq!(numbers(&gauges.sample(BOUND).await), ["0"]);
}

#[tokio::test]
async fn a_machine_without_a_driver_answers_at_once() {
    let gauges = Gauges::new(vec!["/no/such/libnvidia-ml.so.1".into()]);
    for _ in 0..2 {
        assert_eq!(gauges.sample(BOUND).await, None);
    }
    assert_eq!(Gauges::new(Vec::new()).sample(BOUND).await, None);
    // This machine's own, whatever it has.
    let _ = Gauges::default().sample(BOUND).await;
}

#[test]
fn a_library_that_comes_later_is_found_a_minute_after() {
    let fake = Fake::with(CARDS);
    let hidden = fake.path().with_extension("hidden");
    std::fs::rename(fake.path(), &hidden).unwrap();
    let mut driver = driver(&fake);
    assert_eq!(driver.look(seconds(100)), None);
    std::fs::rename(&hidden, fake.path()).unwrap();
    assert_eq!(driver.look(seconds(159)), None);
    assert_eq!(numbers(&driver.look(seconds(160))), ["0"]);
}

#[test]
fn a_driver_that_refuses_is_asked_again_half_a_minute_after() {
    let fake = Fake::with("init !9\n");
    let mut driver = driver(&fake);
    for (now, inits) in [(0, 1), (1, 1), (29, 1), (30, 2), (59, 2)] {
        assert_eq!(driver.look(seconds(now)), None);
        assert_eq!(fake.calls("init"), inits, "{now}");
    }
    fake.say(CARDS);
    assert_eq!(numbers(&driver.look(seconds(60))), ["0"]);
    fake.say("count !999\n");
    assert_eq!(driver.look(seconds(61)), None);
    fake.say(CARDS);
    assert_eq!(driver.look(seconds(90)), None);
    assert_eq!(numbers(&driver.look(seconds(91))), ["0"]);
    assert_eq!(fake.calls("init"), 4);
}

#[test]
fn cards_that_fail_are_left_out_and_the_library_is_opened_anew_if_none_answers() {
    let fake = Fake::with("lost !15\ncard A,1000,900,100,0\ncard B,!15,0,0,0\n");
    let mut driver = driver(&fake);
    assert_eq!(numbers(&driver.look(seconds(0))), ["1"]);
    fake.say("card A,!15,0,0,0\nlost !15\n");
    assert_eq!(driver.look(seconds(1)), None);
    fake.say("lost !15\ncard A,1000,900,100,0\n");
    assert_eq!(driver.look(seconds(30)), None);
    assert_eq!(numbers(&driver.look(seconds(31))), ["1"]);
    assert_eq!(fake.calls("init"), 2);
    // Memory that is the machine's own is no failure, and a machine without a card is none.
    for quiet in ["card GB10,!3,0,0,0\n", ""] {
        fake.say(quiet);
        assert_eq!(driver.look(seconds(32)), Some(Vec::new()));
    }
    assert_eq!(fake.calls("init"), 2);
}

fn gauges() -> (GaugeVec, GaugeVec) {
    let gauge = |name, labels: &[&str]| GaugeVec::new(Opts::new(name, name), labels).unwrap();
    (gauge("memory", &["gpu", "kind"]), gauge("use", &["gpu"]))
}

fn series(gauge: &GaugeVec) -> Vec<(String, f64)> {
    let families = gauge.collect();
    let of = |metric: &Metric| {
        let labels: Vec<&str> = metric.get_label().iter().map(LabelPair::value).collect();
        (labels.join(" "), metric.get_gauge().get_value())
    };
    let mut series: Vec<_> = families.iter().flat_map(MetricFamily::get_metric).map(of).collect();
    series.sort_by(|a, b| a.0.cmp(&b.0));
    series
}

#[test]
fn what_is_not_told_any_more_is_not_shown() {
    let usage = |gpu: &str, utilization| Usage {
        gpu: gpu.to_owned(),
        name: "Any".to_owned(),
        total_bytes: 10,
        used_bytes: 4,
        free_bytes: 5,
        utilization,
    };
    let (memory, utilization) = gauges();
    fill(&memory, &utilization, Some(&[usage("0", Some(0.5)), usage("1/2", Some(1.0))]));
    assert_eq!(series(&memory).len(), 6);
    assert_eq!(series(&utilization), [("0".to_owned(), 0.5), ("1/2".to_owned(), 1.0)]);
    fill(&memory, &utilization, Some(&[usage("1/2", None)]));
    let want = [("1/2 free", 5.0), ("1/2 total", 10.0), ("1/2 used", 4.0)];
    assert_eq!(series(&memory), want.map(|(labels, value)| (labels.to_owned(), value)));
    assert!(series(&utilization).is_empty());
    fill(&memory, &utilization, None);
    assert!(series(&memory).is_empty());
}
