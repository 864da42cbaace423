//! The catalogue by REST: all of it, one model, and whether the host agrees.

use tranche_host::catalogue::Catalogue;
use tranche_host::fake::Machine;

use crate::served::Served;

#[tokio::test]
async fn every_model_is_listed_and_each_can_be_had_by_its_name() {
    let served = Served::start(Machine::arc()).await;
    let listed = served.get("/v1/catalogue").await.json();
    let models: Vec<&str> = listed.as_array().unwrap().iter().map(|e| e["model"].as_str().unwrap()).collect();
    let catalogue = Catalogue::builtin();
    assert_eq!(models, catalogue.entries().iter().map(|entry| entry.model.as_str()).collect::<Vec<_>>());
    for (entry, known) in listed.as_array().unwrap().iter().zip(catalogue.entries()) {
        assert_eq!(*entry, serde_json::to_value(known).unwrap(), "nothing is lost on the way");
        let path = format!("/v1/catalogue/{}", known.model.replace(' ', "%20"));
        assert_eq!(served.get(&path).await.json(), *entry);
    }
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_model_that_is_not_there_is_refused() {
    let served = Served::start(Machine::arc()).await;
    let answer = served.get("/v1/catalogue/Voodoo%202").await;
    assert_eq!(answer.problem(), (404, "model_not_found".to_owned()));
    served.stop().await.unwrap();
}

#[tokio::test]
async fn the_check_says_where_the_host_differs() {
    let served = Served::start(Machine::instinct(8)).await;
    assert_eq!(served.get("/v1/catalogue-check").await.json()["healthy"], true);
    served.stop().await.unwrap();
    let mut machine = Machine::instinct(4);
    machine.functions[0].sriov.as_mut().unwrap().total_vfs = 16;
    let served = Served::start(machine).await;
    let diagnosis = served.get("/v1/catalogue-check").await.json();
    assert_eq!(diagnosis["healthy"], false);
    assert_eq!(diagnosis["findings"][0]["code"], "catalogue_mismatch");
    served.stop().await.unwrap();
}
