// Reads a stream as a user of okhttp-sse would, and prints each frame as a line. Called by
// tests/npm/clients.mjs; docs/clients.md has its text.
//
//   java -cp 'target/java/*' tests/java/Follow.java <address of the stream> <address of a token>
import java.io.IOException;
import java.io.UncheckedIOException;
// snippet: okhttp-sse
import java.time.Duration;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.Response;
import okhttp3.sse.EventSource;
import okhttp3.sse.EventSourceListener;
import okhttp3.sse.EventSources;

class Follow extends EventSourceListener {
    // The gateway sends something every 25 s (ping.interval); OkHttp itself would wait for 10 s.
    private final EventSource.Factory streams =
        EventSources.createFactory(new OkHttpClient.Builder().readTimeout(Duration.ofSeconds(35)).build());
    private final ScheduledExecutorService later = Executors.newSingleThreadScheduledExecutor();
    private final String address;
    private final Supplier<String> token;
    private volatile String cursor = "";

    Follow(String address, Supplier<String> token) {
        this.address = address;
        this.token = token;
    }

    void open() {
        try {
            Request request = new Request.Builder().url(address)
                .header("Authorization", "Bearer " + token.get()).header("Last-Event-ID", cursor).build();
            streams.newEventSource(request, this);
        } catch (RuntimeException noToken) {
            again();
        }
    }

    @Override public void onEvent(EventSource source, String id, String type, String data) {
        handle(data);
        if (id != null) cursor = id;
    }

    @Override public void onClosed(EventSource source) {
        again();
    }

    @Override public void onFailure(EventSource source, Throwable error, Response response) {
        int status = response == null ? 0 : response.code();
        if (status < 400 || status == 408 || status == 429 || status >= 500) again();
        else later.shutdown();
    }

    private void again() {
        later.schedule(this::open, 3, TimeUnit.SECONDS);
    }

    // end

    void handle(String data) {
        System.out.println(data.replace("\n", ""));
    }

    public static void main(String[] arguments) {
        OkHttpClient tokens = new OkHttpClient();
        Request request = new Request.Builder().url(arguments[1]).build();
        new Follow(arguments[0], () -> {
            try (Response answer = tokens.newCall(request).execute()) {
                return answer.body().string();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }).open();
    }
}
