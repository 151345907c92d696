import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.Base64;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/**
 * A handler in the producer's own language, behind a redrive source of {@code kind: http}. It verifies the signature (Standard Webhooks)
 * and drops copies by Redrive-Id, with only the JDK's own classes:
 *
 * <pre>WEBHOOK_SECRET=whsec_... java Handler.java 9000</pre>
 */
public class Handler {
    private static final long TOLERANCE_SECONDS = 300;
    private static final int MOST_BYTES = 16 << 20;

    /** A real handler uses a unique key in the database, inserted in the transaction that does the work, as examples/handler.py does. */
    private static final Set<String> HANDLED = ConcurrentHashMap.newKeySet();

    public static void main(String[] args) throws IOException {
        String secret = System.getenv("WEBHOOK_SECRET");
        if (secret == null || args.length != 1) {
            System.err.println("usage: WEBHOOK_SECRET=whsec_... java Handler.java PORT");
            System.exit(2);
        }
        byte[] key = Base64.getDecoder().decode(secret.replaceFirst("^whsec_", ""));
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), Integer.parseInt(args[0])), 64);
        server.setExecutor(Executors.newFixedThreadPool(16));
        server.createContext("/", exchange -> handle(exchange, key));
        server.start();
        System.out.println("ready");
    }

    private static void handle(HttpExchange exchange, byte[] key) throws IOException {
        try (exchange) {
            byte[] body = exchange.getRequestBody().readNBytes(MOST_BYTES + 1);
            if (body.length > MOST_BYTES) {
                answer(exchange, 413, "too large");
            } else if (!signatureIsGood(exchange, body, key)) {
                answer(exchange, 401, "the signature is wrong or old");
            } else {
                String id = exchange.getRequestHeaders().getFirst("Redrive-Id");
                boolean isNew = HANDLED.add(id);
                System.out.println((isNew ? "done " : "copy ") + id + " " + fact(exchange, "Redrive-Topic") + " "
                        + new String(body, StandardCharsets.UTF_8));
                answer(exchange, 200, isNew ? "done" : "done before");
            }
        } catch (GeneralSecurityException | RuntimeException error) {
            answer(exchange, 500, "the work failed");
        }
    }

    private static boolean signatureIsGood(HttpExchange exchange, byte[] body, byte[] key) throws GeneralSecurityException {
        var headers = exchange.getRequestHeaders();
        String id = headers.getFirst("webhook-id");
        String time = headers.getFirst("webhook-timestamp");
        String given = headers.getFirst("webhook-signature");
        if (id == null || time == null || given == null || !time.matches("[0-9]{1,12}")
                || Math.abs(Instant.now().getEpochSecond() - Long.parseLong(time)) > TOLERANCE_SECONDS) {
            return false;
        }
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        mac.update((id + "." + time + ".").getBytes(StandardCharsets.UTF_8));
        byte[] expected = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes(StandardCharsets.UTF_8);
        for (String one : given.split(" ")) {
            // Takes as long for a wrong signature as for a right one.
            if (MessageDigest.isEqual(expected, one.getBytes(StandardCharsets.UTF_8))) {
                return true;
            }
        }
        return false;
    }

    /** Topic and key come percent-encoded, so that any text fits into a header; a plus sign stands for itself. */
    private static String fact(HttpExchange exchange, String name) {
        String value = exchange.getRequestHeaders().getFirst(name);
        return value == null ? "" : URLDecoder.decode(value.replace("+", "%2B"), StandardCharsets.UTF_8);
    }

    private static void answer(HttpExchange exchange, int status, String text) throws IOException {
        byte[] body = text.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(status, body.length);
        exchange.getResponseBody().write(body);
    }
}
