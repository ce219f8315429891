// A client as somebody writes it with grpc-js: it goes through what an inference service does, and prints what it saw as JSON.
//
//   node client.js '{"modules": ..., "protos": ..., "health": ..., "target": ..., "streamTarget": ..., "echo": ..., "tls": ...}'

"use strict";

const fs = require("node:fs");
const { createRequire } = require("node:module");

const told = JSON.parse(process.argv[2]);
const load = createRequire(`${told.modules}/`);
const grpc = load("@grpc/grpc-js");
const loader = load("@grpc/proto-loader");

const READ = { longs: String, enums: String, defaults: true, keepCase: true };
const FeatureStore = grpc.loadPackageDefinition(
  loader.loadSync("featurestore/v1/serving.proto", { ...READ, includeDirs: [told.protos] }),
).featurestore.v1.FeatureStore;
const Health = grpc.loadPackageDefinition(
  loader.loadFileDescriptorSetFromBuffer(fs.readFileSync(told.health), READ),
).grpc.health.v1.Health;

const asBytes = (value) => Buffer.from(value);

function credentials(tls) {
  if (!tls) return grpc.credentials.createInsecure();
  const [root, key, certificate] = tls.map((path) => fs.readFileSync(path));
  return grpc.credentials.createSsl(root, key, certificate);
}

function outcome(error, value, trailers) {
  const fields = trailers ?? error?.metadata;
  return {
    code: error ? grpc.status[error.code] : "OK",
    details: error?.details ?? "",
    trailers: fields ? fields.getMap() : {},
    value,
  };
}

/** Call a unary method and tell how it ended; whatever it was, it ends. */
function call(client, method, request, { seconds = 20, metadata = {}, cancel = false, ...options } = {}) {
  const sent = new grpc.Metadata();
  for (const [name, value] of Object.entries(metadata)) sent.set(name, value);
  return new Promise((resolve) => {
    let trailers;
    const deadline = new Date(Date.now() + 1000 * seconds);
    const running = client[method](request, sent, { deadline, ...options }, (error, value) =>
      setImmediate(() => resolve(outcome(error, value, trailers))),
    );
    running.on("status", (status) => (trailers = status.metadata));
    if (cancel) setTimeout(() => running.cancel(), 100);
  });
}

function echoClient(target, secured, options) {
  const method = (name) => ({
    path: `/${told.echo}/${name}`,
    requestStream: false,
    responseStream: false,
    requestSerialize: (value) => value,
    requestDeserialize: (value) => value,
    responseSerialize: (value) => value,
    responseDeserialize: (value) => value,
  });
  const Echo = grpc.makeGenericClientConstructor({ Echo: method("Echo"), Sleep: method("Sleep"), Fail: method("Fail") });
  return new Echo(target, secured, options);
}

function column(name, lane, values) {
  return { name, [lane]: values };
}

/** Read the doubles of each row of the first view. */
function scores(answer) {
  return answer.views[0].rows.map((row) => [row.state, row.doubles]);
}

async function read(client) {
  const schema = await call(client, "GetSchema", { features: ["activity:score"] });
  const request = { plan: schema.value.fingerprint, columns: [column("user_id", "integers", [1001, -1, 5])] };
  const answer = await call(client, "GetOnlineFeatures", request);
  return { code: answer.code, rows: scores(answer.value), names: schema.value.features.map((f) => f.name) };
}

async function write(client) {
  const columns = [
    column("user_id", "integers", [77]),
    column("event_timestamp", "integers", ["1704067200000000"]),
    column("score", "doubles", [2.5]),
  ];
  const answer = await call(client, "Write", { view: "activity", columns });
  return { code: answer.code, accepted: answer.value?.accepted };
}

/** Two requests on one stream, and what came back, in order. */
function streamed(client, request) {
  return new Promise((resolve) => {
    const got = [];
    const stream = client.StreamOnlineFeatures(new grpc.Metadata(), { deadline: Date.now() + 20000 });
    stream.on("data", (answer) => got.push(answer.views[0].rows.length));
    stream.on("error", (error) => resolve(outcome(error, got)));
    stream.on("end", () => resolve({ code: "OK", value: got }));
    stream.write(request);
    stream.write(request);
    stream.end();
  });
}

function watched(client, service) {
  return new Promise((resolve) => {
    const watch = client.Watch({ service });
    watch.on("data", (answer) => {
      resolve(answer.status);
      watch.cancel();
    });
    watch.on("error", () => {});
  });
}

async function main() {
  const secured = credentials(told.tls);
  const client = new FeatureStore(told.target, secured);
  const echo = echoClient(told.target, secured);
  const streams = new FeatureStore(told.streamTarget, secured);
  const health = new Health(told.target, secured);
  const zipped = echoClient(told.target, secured, {
    "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip,
  });
  const service = "featurestore.v1.FeatureStore";
  const schema = await call(client, "GetSchema", { features: ["activity:score"] });
  const keys = { plan: schema.value.fingerprint, columns: [column("user_id", "integers", [1001, 5])] };
  const long = asBytes("a".repeat(100000));
  const echoed = await call(zipped, "Echo", long);
  const saw = {
    read: await read(client),
    write: await write(client),
    unknownName: await call(client, "GetSchema", { features: ["wether:temp"] }),
    badKey: await call(client, "GetOnlineFeatures", { ...keys, columns: [column("user_id", "strings", [asBytes("x")])] }),
    textOfAnyAlphabet: await call(client, "GetSchema", { service: "Wetter_für_%_\u2744" }),
    late: (await call(echo, "Sleep", asBytes("30"), { seconds: 0.3 })).code,
    cancelled: (await call(echo, "Sleep", asBytes("30"), { cancel: true })).code,
    failed: await call(echo, "Fail", asBytes("password")),
    afterwards: (await call(echo, "Echo", asBytes("still here"))).value.toString(),
    metadata: JSON.parse((await call(echo, "Echo", asBytes(""), { metadata: { "featurestore-consumer": "m@3" } })).value),
    trailers: (await call(echo, "Echo", asBytes("xy"))).trailers["fs-body-size"],
    gzip: { code: echoed.code, same: Boolean(echoed.value) && long.equals(echoed.value) },
    stream: await streamed(streams, keys),
    health: (await call(health, "Check", { service })).value.status,
    unknownHealth: (await call(health, "Check", { service: "other" })).code,
    watch: await watched(health, service),
  };
  for (const each of [client, echo, streams, health, zipped]) each.close();
  console.log(JSON.stringify(saw));
}

main();
