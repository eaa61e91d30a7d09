//! The codec, between a generated client and a generated server without a network.

use sensormesh_proto::ServiceClient;
use sensormesh_types::{Code, Error};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use crate::generated::sensormesh::trial::v1::trial_service_client::TrialServiceClient;
use crate::generated::sensormesh::trial::v1::trial_service_server::{TrialService, TrialServiceServer};
use crate::generated::sensormesh::trial::v1::{Trial, TryManyRequest, TryManyResponse, TryRequest, TryResponse};
use crate::rules::request;

struct Echo;

type Texts = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<TryManyResponse, Status>> + Send>>;

#[tonic::async_trait]
impl TrialService for Echo {
    async fn r#try(&self, request: Request<TryRequest>) -> Result<Response<TryResponse>, Status> {
        let mut trial = request.into_inner().trial.unwrap_or_default();
        // an invalid answer
        trial.some_text = String::new();
        Ok(Response::new(TryResponse { trial: Some(trial) }))
    }

    type TryManyStream = Texts;

    async fn try_many(&self, request: Request<Streaming<TryManyRequest>>) -> Result<Response<Texts>, Status> {
        let answers =
            request.into_inner().map(|trial| Ok(TryManyResponse { text: trial?.trial.unwrap_or_default().text }));
        Ok(Response::new(Box::pin(answers)))
    }
}

fn client() -> TrialServiceClient<TrialServiceServer<Echo>> {
    TrialServiceClient::over(TrialServiceServer::new(Echo))
}

fn good() -> Trial {
    Trial { some_text: "x".into(), ..Trial::default() }
}

#[tokio::test]
async fn a_valid_request_reaches_the_handler_and_any_answer_the_caller() {
    let answer = client().r#try(request()).await.unwrap().into_inner();
    assert_eq!(answer.trial.unwrap().some_text, "");
}

#[tokio::test]
async fn an_invalid_request_is_refused_with_its_fields() {
    let request = TryRequest { trial: Some(Trial::default()), ..request() };
    let error = Error::from(client().r#try(request).await.unwrap_err());
    assert_eq!(error.code(), Code::Invalid);
    assert_eq!(error.reason(), "INVALID_FIELD");
    assert_eq!(error.fields()[0].field, "trial.some_text");
}

#[tokio::test]
async fn an_invalid_message_ends_a_stream_where_it_stands() {
    let messages = [
        TryManyRequest { trial: Some(Trial { text: "a".into(), ..good() }) },
        TryManyRequest { trial: Some(Trial { text: "long".into(), ..good() }) },
    ];
    let mut answers = client().try_many(tokio_stream::iter(messages)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().text, "a");
    let error = Error::from(answers.message().await.unwrap_err());
    assert_eq!((error.code(), error.fields()[0].field.as_str()), (Code::Invalid, "trial.text"));
}

#[test]
fn a_client_knows_whom_it_calls() {
    fn service<C: ServiceClient<TrialServiceServer<Echo>>>() -> &'static str {
        C::SERVICE
    }
    assert_eq!(service::<TrialServiceClient<TrialServiceServer<Echo>>>(), "trial");
}
