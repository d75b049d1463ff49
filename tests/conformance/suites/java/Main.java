import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

import org.apache.kafka.clients.admin.Admin;

/**
 * Apache Kafka's Java clients against a broker: {@code Main BOOTSTRAP [PART OF A NAME]...}. Every public method of the scenario classes is
 * one scenario; each prints one line, {@code PASS name} or {@code FAIL name: why}. Exit code 0 unless the driver itself fails.
 */
public final class Main {
    private static final List<Class<? extends Checks>> SCENARIOS =
        List.of(Producing.class, Consuming.class, Administering.class);
    private static final int AT_ONCE = 4;
    private static final long SECONDS_MAX = 120;

    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0];
        List<String> wanted = Arrays.asList(arguments).subList(1, arguments.length);
        ExecutorService threads = Executors.newFixedThreadPool(AT_ONCE, Main::background);
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "default.api.timeout.ms", 30_000))) {
            List<Future<String>> lines = new ArrayList<>();
            for (Class<? extends Checks> kind : SCENARIOS)
                for (Method scenario : scenarios(kind, wanted))
                    lines.add(threads.submit(() -> line(bootstrap, admin, scenario)));
            for (Future<String> line : lines)
                System.out.println(line.get());
        }
        System.exit(0);
    }

    private static Thread background(Runnable work) {
        Thread thread = new Thread(work);
        thread.setDaemon(true);
        return thread;
    }

    private static List<Method> scenarios(Class<?> kind, List<String> wanted) {
        return Arrays.stream(kind.getDeclaredMethods())
            .filter(each -> java.lang.reflect.Modifier.isPublic(each.getModifiers()))
            .filter(each -> wanted.isEmpty() || wanted.stream().anyMatch(each.getName()::contains))
            .sorted(Comparator.comparing(Method::getName)).toList();
    }

    private static String line(String bootstrap, Admin admin, Method scenario) throws Exception {
        String name = scenario.getName();
        Object checks = scenario.getDeclaringClass()
            .getDeclaredConstructor(String.class, Admin.class, String.class)
            .newInstance(bootstrap, admin, name + "-" + Long.toHexString(System.nanoTime()));
        ExecutorService one = Executors.newSingleThreadExecutor(Main::background);
        try {
            one.submit(() -> scenario.invoke(checks)).get(SECONDS_MAX, TimeUnit.SECONDS);
            return "PASS " + name;
        } catch (TimeoutException error) {
            return "FAIL " + name + ": not over after " + SECONDS_MAX + " s";
        } catch (java.util.concurrent.ExecutionException error) {
            Throwable cause = error.getCause();
            while (cause instanceof InvocationTargetException)
                cause = cause.getCause();
            cause.printStackTrace();
            return "FAIL " + name + ": " + cause.toString().replace('\n', ' ');
        } finally {
            one.shutdownNow();
        }
    }
}
