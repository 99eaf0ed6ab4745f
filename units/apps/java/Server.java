import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.nio.channels.Channel;
import java.nio.channels.Channels;
import java.nio.channels.ClosedChannelException;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/** Serves on the socket that it finds as its standard input (by hand: on port 8087), and drains on SIGTERM. */
public class Server {
    public static void main(String[] args) throws Exception {
        Channel inherited = System.inheritedChannel();
        ServerSocketChannel listener = inherited instanceof ServerSocketChannel
            ? (ServerSocketChannel) inherited
            : ServerSocketChannel.open().bind(new InetSocketAddress("127.0.0.1", 8087));
        ExecutorService clients = Executors.newFixedThreadPool(16);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> drain(listener, clients)));
        while (true) {
            try {
                SocketChannel client = listener.accept();
                clients.execute(() -> answer(client));
            } catch (ClosedChannelException closed) {
                // SIGTERM: the hook waits for the answers that are under way.
                return;
            }
        }
    }

    private static void drain(ServerSocketChannel listener, ExecutorService clients) {
        try {
            listener.close();
            clients.shutdown();
            clients.awaitTermination(20, TimeUnit.SECONDS);
        } catch (IOException | InterruptedException gone) {
            Thread.currentThread().interrupt();
        }
    }

    private static void answer(SocketChannel client) {
        try (client) {
            BufferedReader request = new BufferedReader(
                new InputStreamReader(Channels.newInputStream(client), StandardCharsets.US_ASCII));
            String line = request.readLine();
            while (line != null && !line.isEmpty()) {
                line = request.readLine();
            }
            String generation = System.getenv().getOrDefault("AETERNA_GENERATION", "0");
            String body = String.format("{\"pid\":%d,\"generation\":%s}\n", ProcessHandle.current().pid(), generation);
            String answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                + "Content-Length: " + body.length() + "\r\n\r\n" + body;
            Channels.newOutputStream(client).write(answer.getBytes(StandardCharsets.US_ASCII));
        } catch (IOException gone) {
            // The client went away: there is nobody to tell.
        }
    }
}
