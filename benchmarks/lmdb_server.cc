// The limit of gRPC in C++: one completion queue and thread, and an answer of rows as LMDB holds them.
//
//   lmdb_server PORT LMDB_FOLDER
//
// A request is what the store's clients send: field 2 has a column, whose field 2 has 8-byte keys. It looks them up and joins what it finds.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <lmdb.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace {

MDB_env* environment;
MDB_dbi rows;
MDB_txn* snapshot;

void check(int code) {
  if (code) {
    fprintf(stderr, "%s\n", mdb_strerror(code));
    exit(1);
  }
}

uint64_t varint(const uint8_t*& at, const uint8_t* end) {
  uint64_t value = 0;
  for (int shift = 0; at < end; shift += 7) {
    value |= uint64_t(*at & 127) << shift;
    if (!(*at++ & 128)) break;
  }
  return value;
}

void read(const uint8_t* at, const uint8_t* end, int depth, std::string& answer) {
  while (at < end) {
    uint64_t field = varint(at, end) >> 3, size = varint(at, end);
    if (field == 2 && depth == 0) read(at, at + size, 1, answer);
    if (field == 2 && depth == 1) {
      for (const uint8_t* key = at; key + 8 <= at + size; key += 8) {
        MDB_val wanted{8, const_cast<uint8_t*>(key)}, found;
        if (mdb_get(snapshot, rows, &wanted, &found) == 0) answer.append(static_cast<char*>(found.mv_data), found.mv_size);
      }
    }
    at += size;
  }
}

struct Call {
  grpc::AsyncGenericService* service;
  grpc::ServerCompletionQueue* queue;
  grpc::GenericServerContext context;
  grpc::GenericServerAsyncReaderWriter stream{&context};
  grpc::ByteBuffer request;
  enum { ASKED, READING, ENDING } state = ASKED;

  Call(grpc::AsyncGenericService* service, grpc::ServerCompletionQueue* queue) : service(service), queue(queue) {
    service->RequestCall(&context, &stream, queue, queue, this);
  }

  void step(bool ok) {
    if (state == ENDING || !ok) {
      delete this;
    } else if (state == ASKED) {
      new Call(service, queue);
      state = READING;
      stream.Read(&request, this);
    } else {
      grpc::Slice body;
      (void)(request.TrySingleSlice(&body).ok() || request.DumpToSingleSlice(&body).ok());
      check(mdb_txn_renew(snapshot));
      std::string answer;
      read(body.begin(), body.end(), 0, answer);
      mdb_txn_reset(snapshot);
      grpc::Slice slice(answer);
      state = ENDING;
      stream.WriteAndFinish(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), grpc::Status::OK, this);
    }
  }
};

}  // namespace

int main(int, char** arguments) {
  check(mdb_env_create(&environment));
  check(mdb_env_set_mapsize(environment, size_t(64) << 30));
  check(mdb_env_open(environment, arguments[2], MDB_RDONLY | MDB_NORDAHEAD, 0600));
  check(mdb_txn_begin(environment, nullptr, MDB_RDONLY, &snapshot));
  check(mdb_dbi_open(snapshot, nullptr, 0, &rows));
  mdb_txn_reset(snapshot);
  grpc::ServerBuilder builder;
  grpc::AsyncGenericService service;
  builder.AddListeningPort(std::string("127.0.0.1:") + arguments[1], grpc::InsecureServerCredentials());
  builder.RegisterAsyncGenericService(&service);
  auto queue = builder.AddCompletionQueue();
  auto server = builder.BuildAndStart();
  for (int i = 0; i < 64; i++) new Call(&service, queue.get());
  void* tag;
  for (bool ok; queue->Next(&tag, &ok);) static_cast<Call*>(tag)->step(ok);
}
